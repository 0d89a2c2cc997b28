//! What is answered from memory, and what is opened for an environment.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use types::{
    ApiError, ErrorCode, FunctionArn, FunctionName, FunctionRef, FunctionSpec, Qualifier, Version,
    api::{AccountUsage, FunctionConfiguration, FunctionPage},
    limits,
};
use zeroize::Zeroizing;

use super::{
    ControlError, ControlPlane, Shared,
    catalogue::Function,
    errors::{invalid, not_found, not_now},
};
use crate::{
    record::{Deployment, SealedVariables, State},
    seal,
};

/// What GetFunction answers, without the `Location` only the edge can name.
#[derive(Debug, Clone)]
pub struct FunctionDetail {
    pub configuration: FunctionConfiguration,
    pub tags: BTreeMap<String, String>,
    /// For [`ControlPlane::open_code_zip`]: the deployment `configuration` describes, served already or not.
    pub shown: Arc<FunctionSpec>,
}

impl ControlPlane {
    /// The function as it is served now. No disk, no key service: for every invocation.
    ///
    /// # Errors
    ///
    /// ResourceNotFoundException; ResourceConflictException while the function is Pending or when it Failed;
    /// AccessDeniedException for another account's ARN.
    pub fn resolve(&self, function: &FunctionRef) -> Result<Arc<FunctionSpec>, ApiError> {
        let found = self.0.find(function)?;
        match found.record.state {
            State::Active => Ok(Arc::clone(&found.current)),
            State::Pending => Err(not_now("Pending")),
            State::Failed { .. } => Err(not_now("Failed")),
        }
    }

    /// GetFunctionConfiguration.
    pub fn get_function_configuration(
        &self,
        function: &FunctionRef,
    ) -> Result<FunctionConfiguration, ApiError> {
        Ok(self.0.configuration(&self.0.find(function)?.record))
    }

    /// GetFunction.
    pub fn get_function(&self, function: &FunctionRef) -> Result<FunctionDetail, ApiError> {
        let found = self.0.find(function)?;
        Ok(FunctionDetail {
            configuration: self.0.configuration(&found.record),
            tags: found.record.tags.clone(),
            shown: Arc::clone(&found.shown),
        })
    }

    /// ListFunctions: at most 50 at once, as on AWS, in the order of their names. A function created or deleted between
    /// two pages may be missed or shown; none is shown twice.
    pub fn list_functions(
        &self,
        marker: Option<&str>,
        max_items: Option<usize>,
    ) -> Result<FunctionPage, ApiError> {
        let behind = marker.map(read_marker).transpose()?;
        let count = max_items.unwrap_or(limits::LIST_FUNCTIONS_PAGE).clamp(1, limits::LIST_FUNCTIONS_PAGE);
        let (page, more) = self.0.catalogue.page(behind.as_ref(), count);
        let last = page.last().filter(|_| more).map(|function| &function.record.arn.name);
        Ok(FunctionPage {
            next_marker: last.map(|name| URL_SAFE_NO_PAD.encode(name.as_str())),
            functions: page.iter().map(|function| self.0.listed(&function.record)).collect(),
        })
    }

    /// `AccountUsage` of GetAccountSettings.
    #[must_use]
    pub fn account_usage(&self) -> AccountUsage {
        self.0.catalogue.usage()
    }

    /// The function's environment variables, opened. Uses the key service, not the disk.
    pub fn open_variables(&self, function: &FunctionSpec) -> Result<BTreeMap<String, String>, ControlError> {
        self.0.with_deployment(function, |deployment| self.0.variables(&function.arn, deployment))
    }

    /// The function's code as a squashfs image, opened into memory. Blocks; as long as reading and deciphering takes.
    pub fn open_code_image(&self, function: &FunctionSpec) -> Result<Zeroizing<Vec<u8>>, ControlError> {
        self.0.with_deployment(function, |deployment| {
            Ok(self.0.artefacts.open_image(&*self.0.keys, &function.arn, &deployment.code)?)
        })
    }

    /// The function's package as it was uploaded, opened into memory. Blocks as [`open_code_image`](Self::open_code_image).
    pub fn open_code_zip(&self, function: &FunctionSpec) -> Result<Zeroizing<Vec<u8>>, ControlError> {
        self.0.with_deployment(function, |deployment| {
            Ok(self.0.artefacts.open_zip(&*self.0.keys, &function.arn, &deployment.code)?)
        })
    }
}

impl Shared {
    /// The function a caller names, if it is here and has that qualifier.
    pub(super) fn find(&self, function: &FunctionRef) -> Result<Arc<Function>, ApiError> {
        self.refuse_elsewhere(function)?;
        let arn = self.arn(&function.name);
        match &function.qualifier {
            None | Some(Qualifier::Version(Version::Latest)) => {}
            Some(other) => return Err(not_found(&arn.qualified(other))),
        }
        self.catalogue.get(&function.name).ok_or_else(|| match &function.qualifier {
            None => not_found(&arn.to_string()),
            Some(qualifier) => not_found(&arn.qualified(qualifier)),
        })
    }

    /// Refuses another account's and another region's functions.
    pub(super) fn refuse_elsewhere(&self, function: &FunctionRef) -> Result<(), ApiError> {
        let (region, account) = (&self.config.region, &self.config.account);
        if let Some(other) = function.account.as_ref().filter(|other| *other != account) {
            let arn = FunctionArn {
                region: function.region.clone().unwrap_or_else(|| region.clone()),
                account: other.clone(),
                name: function.name.clone(),
            };
            let message = format!("Account {account} is not authorized to access resource: {arn}");
            return Err(ApiError::new(ErrorCode::AccessDenied, message));
        }
        match function.region.as_ref().filter(|other| *other != region) {
            None => Ok(()),
            Some(other) => Err(ApiError::new(
                ErrorCode::ResourceNotFound,
                format!("Functions from '{other}' are not reachable in this region ('{region}')"),
            )),
        }
    }

    /// Calls `open` with the deployment a spec was made from. An error that comes of its replacement meanwhile says so.
    fn with_deployment<T>(
        &self,
        function: &FunctionSpec,
        open: impl FnOnce(&Deployment) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let superseded = || ControlError::Superseded(function.arn.clone());
        let found = self.catalogue.get(&function.arn.name).ok_or_else(superseded)?;
        let deployment = found.record.deployments().find(|deployment| deployment.id == function.deployment);
        open(deployment.ok_or_else(superseded)?).map_err(|error| {
            let live = self.catalogue.is_live(&function.arn.name, function.deployment);
            if live { error } else { superseded() }
        })
    }

    pub(super) fn variables(
        &self,
        function: &FunctionArn,
        deployment: &Deployment,
    ) -> Result<BTreeMap<String, String>, ControlError> {
        let Some(SealedVariables { set_by, key, sealed }) = &deployment.variables else {
            return Ok(BTreeMap::new());
        };
        let context = SealedVariables::context(function, *set_by);
        let key = self.keys.unwrap(&key.0, &context)?;
        let json = seal::open_value(&key, &context, sealed)?;
        serde_json::from_slice(&json).map_err(|_| ControlError::Malformed)
    }
}

fn read_marker(marker: &str) -> Result<FunctionName, ApiError> {
    URL_SAFE_NO_PAD
        .decode(marker)
        .ok()
        .and_then(|name| String::from_utf8(name).ok()?.parse().ok())
        .ok_or_else(|| invalid("The Marker is not one that ListFunctions returned."))
}
