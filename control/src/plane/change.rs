//! Create, update, delete.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Instant,
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use types::{
    ApiError, DeploymentId, FunctionArn, FunctionName, FunctionRef, Qualifier, RecursiveLoop, Version,
    api::{CreateFunction, FunctionConfiguration, UpdateFunctionCode, UpdateFunctionConfiguration},
    limits,
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Busy, ControlPlane, Shared, activate,
    catalogue::Function,
    errors::{
        ChangeError, already_exists, code_storage_exceeded, invalid, not_found, not_now, update_in_progress,
        wrong_revision,
    },
    settings::{Completed, check_architectures, check_runtime, check_variables},
};
use crate::{
    artefacts::{self, ArtefactKeys},
    metrics,
    package::Package,
    record::{CodeRecord, Deployment, FunctionRecord, SealedKey, SealedVariables, State, Update},
    seal::{self, ArtefactKind},
    store::StoreError,
};

impl ControlPlane {
    /// CreateFunction. Answers Pending; the function is Active when its code was seen to open.
    pub async fn create_function(&self, request: CreateFunction) -> Result<FunctionConfiguration, ApiError> {
        let function: FunctionRef =
            request.function_name.parse().map_err(|error| invalid(format!("{error}")))?;
        self.0.refuse_elsewhere(&function)?;
        if function.qualifier.is_some() {
            return Err(invalid("A new function's name cannot have a qualifier."));
        }
        self.change("create_function", function.name.clone(), move |shared| {
            shared.create(&function.name, request)
        })
        .await
    }

    /// UpdateFunctionCode. Answers InProgress; what was served before is served until the new code was seen to open.
    pub async fn update_function_code(
        &self,
        function: &FunctionRef,
        request: UpdateFunctionCode,
    ) -> Result<FunctionConfiguration, ApiError> {
        let function = function.clone();
        self.change("update_function_code", function.name.clone(), move |shared| {
            shared.update_code(&function, &request)
        })
        .await
    }

    /// UpdateFunctionConfiguration. As [`update_function_code`](Self::update_function_code).
    pub async fn update_function_configuration(
        &self,
        function: &FunctionRef,
        request: UpdateFunctionConfiguration,
    ) -> Result<FunctionConfiguration, ApiError> {
        let function = function.clone();
        self.change("update_function_configuration", function.name.clone(), move |shared| {
            shared.update_configuration(&function, &request)
        })
        .await
    }

    /// DeleteFunction. Durable on return. The function's logs stay, as on AWS.
    pub async fn delete_function(&self, function: &FunctionRef) -> Result<(), ApiError> {
        if function.qualifier == Some(Qualifier::Version(Version::Latest)) {
            self.0.find(function)?;
            return Err(invalid("$LATEST version cannot be deleted without deleting the function."));
        }
        let function = function.clone();
        self.change("delete_function", function.name.clone(), move |shared| shared.delete(&function)).await
    }

    /// Wraps every stored data key anew under the current wrapping key, and returns how many. Afterwards the wrapping
    /// keys used until now can be destroyed (logs have keys of their own: `LogStore::rewrap_all`).
    pub async fn rewrap_all(&self) -> Result<usize, ApiError> {
        let mut count = 0;
        for function in self.0.catalogue.all() {
            let name = function.record.arn.name.clone();
            count += self.change("rewrap", name.clone(), move |shared| shared.rewrap(&name)).await?;
        }
        Ok(count)
    }

    /// Runs a change in its function's turn, to its end whether or not the caller waits for it.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: FunctionName,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let since = Instant::now();
        let busy = Busy::new(&self.0);
        let task = tokio::spawn(async move {
            let result = in_turn(busy.shared(), &name, work).await;
            // Also after a failure: the change may have been stored all the same.
            if !matches!(result, Err(ChangeError::Refused(_))) {
                activate::resume(busy.shared(), &name);
            }
            result
        });
        let result = task.await.unwrap_or_else(|error| Err(ChangeError::Internal(error.to_string())));
        let result = result.map_err(|error| error.into_api(operation));
        metrics::changed(operation, since, &result);
        result
    }
}

/// Runs `work` on a blocking thread when it is the function's turn and a permit is free.
pub(super) async fn in_turn<T: Send + 'static>(
    shared: &Arc<Shared>,
    name: &FunctionName,
    work: impl FnOnce(&Arc<Shared>) -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, ChangeError> {
    let internal = |error: &dyn std::fmt::Display| ChangeError::Internal(error.to_string());
    let turn = shared.turns.take(name).await;
    let permit = Arc::clone(&shared.permits).acquire_owned().await.map_err(|error| internal(&error))?;
    let working = Arc::clone(shared);
    let work = move || {
        let result = work(&working);
        drop((permit, turn));
        result
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(internal(&error)))
}

impl Shared {
    fn create(
        &self,
        name: &FunctionName,
        request: CreateFunction,
    ) -> Result<FunctionConfiguration, ChangeError> {
        if self.catalogue.get(name).is_some() {
            return Err(already_exists(name).into());
        }
        let (Some(runtime), Some(handler)) = (&request.runtime, &request.handler) else {
            return Err(
                invalid("Runtime and Handler are mandatory parameters for functions created with deployment packages.").into()
            );
        };
        check_architectures(request.architectures.as_deref())?;
        let runtime = check_runtime(runtime, &(self.config.installed_runtimes)())?;
        let completed = Completed::defaults(name).changed(&request.settings)?;
        let variables = request.settings.environment.unwrap_or_default();
        check_variables(&variables)?;
        self.refuse_storage(0, request.zip.len() as u64)?;

        let arn = self.arn(name);
        let id = DeploymentId::random();
        let variables = self.seal_variables(&arn, id, &variables)?;
        let code = self.store_code(&arn, id, request.zip)?;
        let current = self.deployment(id, completed, code, variables, runtime, handler.clone(), request.role);
        let record = FunctionRecord {
            arn,
            revision: Uuid::new_v4(),
            state: State::Pending,
            update: Update::None,
            current,
            tags: request.tags,
            event_invoke: BTreeMap::new(),
            recursive_loop: RecursiveLoop::default(),
        };
        self.commit_deployment(None, record, id)
    }

    fn update_code(
        &self,
        function: &FunctionRef,
        request: &UpdateFunctionCode,
    ) -> Result<FunctionConfiguration, ChangeError> {
        let old = self.updatable(function, request.revision_id.as_deref())?;
        check_architectures(request.architectures.as_deref())?;
        self.refuse_storage(old.record.current.code.size, request.zip.len() as u64)?;
        if request.dry_run {
            Package::check(request.zip.clone())?;
            let mut would_be = old.record.clone();
            would_be.current.code.size = request.zip.len() as u64;
            would_be.current.code.sha256 = code_sha256(&request.zip);
            return Ok(self.configuration(&would_be));
        }
        let id = DeploymentId::random();
        let code = self.store_code(&old.record.arn, id, request.zip.clone())?;
        let next = Deployment { id, code, last_modified: self.now(), ..old.record.current.clone() };
        self.commit_update(&old, next)
    }

    fn update_configuration(
        &self,
        function: &FunctionRef,
        request: &UpdateFunctionConfiguration,
    ) -> Result<FunctionConfiguration, ChangeError> {
        let old = self.updatable(function, request.revision_id.as_deref())?;
        let current = old.record.current.clone();
        let runtime = match &request.runtime {
            Some(runtime) => check_runtime(runtime, &(self.config.installed_runtimes)())?,
            None => current.runtime,
        };
        let completed = Completed {
            description: current.description,
            timeout: current.timeout,
            memory: current.memory,
            ephemeral_storage: current.ephemeral_storage,
            tracing_mode: current.tracing_mode,
            logging: current.logging,
            dead_letter_queue: current.dead_letter_queue,
        }
        .changed(&request.settings)?;
        let id = DeploymentId::random();
        let variables = match &request.settings.environment {
            Some(variables) => {
                check_variables(variables)?;
                self.seal_variables(&old.record.arn, id, variables)?
            }
            None => current.variables,
        };
        let handler = request.handler.clone().unwrap_or(current.handler);
        let role = request.role.clone().unwrap_or(current.role);
        let mut next = self.deployment(id, completed, current.code, variables, runtime, handler, role);
        if old.record.current.serves_as_well_as(&next) {
            // The same environments go on: none of them knows where failed events go.
            next.id = old.record.current.id;
        }
        self.commit_update(&old, next)
    }

    fn delete(&self, function: &FunctionRef) -> Result<(), ChangeError> {
        let old = self.find(function)?;
        let arn = &old.record.arn;
        {
            let _commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
            self.settle_doubt(arn, self.store.remove(arn, old.record.revision))?;
            self.catalogue.remove(&arn.name);
        }
        for deployment in old.record.deployments() {
            self.retire(deployment.id);
            self.remove_artefacts(deployment.code.artefact);
        }
        Ok(())
    }

    fn rewrap(&self, name: &FunctionName) -> Result<usize, ChangeError> {
        // Deleted since the round began: nothing to do.
        let Some(old) = self.catalogue.get(name) else {
            return Ok(0);
        };
        let mut record = old.record.clone();
        let arn = record.arn.clone();
        let mut count = 0;
        for Deployment { code, variables, .. } in record.deployments_mut() {
            let mut rewrap = |key: &mut SealedKey, context| -> Result<(), ChangeError> {
                key.0 = self.keys.rewrap(&key.0, &context).map_err(artefacts::ArtefactError::Key)?;
                count += 1;
                Ok(())
            };
            rewrap(&mut code.image_key, artefacts::context(&arn, code.artefact, ArtefactKind::Image))?;
            rewrap(&mut code.zip_key, artefacts::context(&arn, code.artefact, ArtefactKind::Zip))?;
            if let Some(variables) = variables {
                rewrap(&mut variables.key, SealedVariables::context(&arn, variables.set_by))?;
            }
        }
        // Nothing a caller can see has changed: the revision stays.
        self.replace(&old, record)?;
        Ok(count)
    }

    // === steps ===

    /// The function to be updated, if it may be updated now and the caller knows its latest revision.
    fn updatable(&self, function: &FunctionRef, revision: Option<&str>) -> Result<Arc<Function>, ApiError> {
        let found = self.find(function)?;
        if revision.is_some_and(|revision| revision != found.record.revision.to_string()) {
            return Err(wrong_revision());
        }
        match (&found.record.state, &found.record.update) {
            (State::Pending, _) => Err(not_now("Pending")),
            (_, Update::InProgress(_)) => Err(update_in_progress(&found.record.arn)),
            _ => Ok(found),
        }
    }

    fn refuse_storage(&self, freed: u64, added: u64) -> Result<(), ApiError> {
        let used = self.catalogue.usage().total_code_size.saturating_sub(freed);
        match used.saturating_add(added) > self.config.code_storage_bytes {
            true => Err(code_storage_exceeded()),
            false => Ok(()),
        }
    }

    /// Checks and optimises a package, and stores both sealed.
    fn store_code(&self, arn: &FunctionArn, id: DeploymentId, zip: Bytes) -> Result<CodeRecord, ChangeError> {
        let package = Package::check(zip.clone())?;
        let image = package.build_image().map_err(|error| ChangeError::Internal(error.to_string()))?;
        let ArtefactKeys { image: image_key, zip: zip_key } =
            self.artefacts.store(&*self.keys, arn, id, &image, &zip)?;
        Ok(CodeRecord { artefact: id, size: zip.len() as u64, sha256: code_sha256(&zip), image_key, zip_key })
    }

    fn seal_variables(
        &self,
        arn: &FunctionArn,
        id: DeploymentId,
        variables: &BTreeMap<String, String>,
    ) -> Result<Option<SealedVariables>, ChangeError> {
        if variables.is_empty() {
            return Ok(None);
        }
        // Reserved at once: growing would leave plaintext in freed memory.
        let mut json = Zeroizing::new(Vec::with_capacity(limits::ENVIRONMENT_BYTES));
        serde_json::to_writer(&mut *json, variables)
            .map_err(|error| ChangeError::Internal(error.to_string()))?;
        let context = SealedVariables::context(arn, id);
        let (key, wrapped) = self.keys.generate(&context).map_err(artefacts::ArtefactError::Key)?;
        let sealed = seal::seal_value(&key, &context, &json).map_err(artefacts::ArtefactError::Seal)?;
        Ok(Some(SealedVariables { set_by: id, key: SealedKey(wrapped), sealed }))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a deployment, each of another origin")]
    fn deployment(
        &self,
        id: DeploymentId,
        completed: Completed,
        code: CodeRecord,
        variables: Option<SealedVariables>,
        runtime: types::RuntimeName,
        handler: String,
        role: String,
    ) -> Deployment {
        let Completed {
            description,
            timeout,
            memory,
            ephemeral_storage,
            tracing_mode,
            logging,
            dead_letter_queue,
        } = completed;
        Deployment {
            id,
            runtime,
            handler,
            role,
            description,
            timeout,
            memory,
            ephemeral_storage,
            tracing_mode,
            logging,
            dead_letter_queue,
            code,
            variables,
            last_modified: self.now(),
        }
    }

    fn commit_update(&self, old: &Function, next: Deployment) -> Result<FunctionConfiguration, ChangeError> {
        let id = next.id;
        let record = FunctionRecord {
            revision: Uuid::new_v4(),
            update: Update::InProgress(Box::new(next)),
            ..old.record.clone()
        };
        self.commit_deployment(Some(old), record, id)
    }

    /// Makes a record durable that names a new deployment, or removes what was stored for it.
    fn commit_deployment(
        &self,
        old: Option<&Function>,
        record: FunctionRecord,
        new: DeploymentId,
    ) -> Result<FunctionConfiguration, ChangeError> {
        let answer = self.configuration(&record);
        match self.insert_or_replace(old, record) {
            Ok(()) => Ok(answer),
            // Perhaps it is stored and names the artefacts; the next start knows.
            Err(error @ ChangeError::Store(StoreError::Unavailable(_))) => Err(error),
            Err(error) => {
                let named = |old: &Function| old.record.deployments().any(|one| one.code.artefact == new);
                if !old.is_some_and(named) {
                    self.remove_artefacts(new);
                }
                Err(error)
            }
        }
    }

    fn insert_or_replace(&self, old: Option<&Function>, record: FunctionRecord) -> Result<(), ChangeError> {
        let _commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        let freed = old.map_or(0, |old| old.record.shown().code.size);
        // Checked before the work began, too; others may have used the room since.
        self.refuse_storage(freed, record.shown().code.size)?;
        let stored = match old {
            None => self.store.insert(&record),
            Some(old) => self.store.update(&record, old.record.revision),
        };
        self.settle_doubt(&record.arn, stored)?;
        self.catalogue.put(record);
        Ok(())
    }

    /// Replaces a record by one that needs no more room.
    pub(super) fn replace(&self, old: &Function, record: FunctionRecord) -> Result<(), ChangeError> {
        let _commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle_doubt(&record.arn, self.store.update(&record, old.record.revision))?;
        self.catalogue.put(record);
        Ok(())
    }

    /// After an error that leaves open whether the change was stored: makes the catalogue say what the store says.
    fn settle_doubt(&self, arn: &FunctionArn, stored: Result<(), StoreError>) -> Result<(), ChangeError> {
        if let Err(StoreError::Unavailable(_)) = &stored
            && let Ok(records) = self.store.load()
        {
            match records.into_iter().find(|record| record.arn == *arn) {
                Some(record) => drop(self.catalogue.put(record)),
                None => self.catalogue.remove(&arn.name),
            }
        }
        match stored {
            Err(StoreError::AlreadyExists(arn)) => Err(already_exists(&arn.name).into()),
            Err(StoreError::Conflict { arn, .. }) => Err(not_found(&arn.to_string()).into()),
            other => Ok(other?),
        }
    }

    pub(super) fn retire(&self, deployment: DeploymentId) {
        // Nobody listens: nobody has environments.
        let _ = self.retired.send(deployment);
    }

    /// Removes files no record names any more. A failure costs room until the next start, nothing else.
    pub(super) fn remove_artefacts(&self, deployment: DeploymentId) {
        if let Err(error) = self.artefacts.remove(deployment) {
            tracing::warn!(%deployment, %error, "artefacts could not be deleted; the next start deletes them");
        }
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX)
    }
}

/// `CodeSha256`.
fn code_sha256(zip: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, zip))
}
