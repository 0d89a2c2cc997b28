//! Every function, in memory: what `resolve` and the listing read without touching a disk.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use types::{DeploymentId, EventInvokePolicy, FunctionName, FunctionSpec, api::AccountUsage};

use crate::{metrics, record::FunctionRecord};

/// A record and what follows from it. Immutable; a change puts a new one in its place.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) record: FunctionRecord,
    /// Of the deployment that is served.
    pub(super) current: Arc<FunctionSpec>,
    /// Of the deployment the API shows.
    pub(super) shown: Arc<FunctionSpec>,
    /// Of the deployment that is served, and of the function.
    pub(super) policy: EventInvokePolicy,
}

/// All functions by name. The lock is held for a look-up or a replacement only.
#[derive(Debug, Default)]
pub(super) struct Catalogue(RwLock<BTreeMap<FunctionName, Arc<Function>>>);

impl Function {
    pub(super) fn new(record: FunctionRecord) -> Arc<Self> {
        let current = Arc::new(record.spec(&record.current));
        let shown = match record.shown().id == current.deployment {
            true => Arc::clone(&current),
            false => Arc::new(record.spec(record.shown())),
        };
        let policy = record.event_invoke_policy();
        Arc::new(Self { record, current, shown, policy })
    }
}

impl Catalogue {
    pub(super) fn get(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.read().get(name).map(Arc::clone)
    }

    pub(super) fn put(&self, record: FunctionRecord) -> Arc<Function> {
        let function = Function::new(record);
        let mut functions = self.write();
        functions.insert(function.record.arn.name.clone(), Arc::clone(&function));
        report(&functions);
        function
    }

    pub(super) fn remove(&self, name: &FunctionName) {
        let mut functions = self.write();
        functions.remove(name);
        report(&functions);
    }

    pub(super) fn all(&self) -> Vec<Arc<Function>> {
        self.read().values().map(Arc::clone).collect()
    }

    /// Up to `count` functions behind `marker` in the order of their names, and whether there are more.
    pub(super) fn page(&self, marker: Option<&FunctionName>, count: usize) -> (Vec<Arc<Function>>, bool) {
        let functions = self.read();
        let behind = marker.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = functions
            .range::<FunctionName, _>((behind, Bound::Unbounded))
            .map(|(_, function)| Arc::clone(function));
        let page = rest.by_ref().take(count).collect();
        (page, rest.next().is_some())
    }

    pub(super) fn usage(&self) -> AccountUsage {
        usage(&self.read())
    }

    /// Whether a deployment serves, or is about to.
    pub(super) fn is_live(&self, name: &FunctionName, deployment: DeploymentId) -> bool {
        self.get(name).is_some_and(|function| function.record.deployments().any(|live| live.id == deployment))
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<FunctionName, Arc<Function>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<FunctionName, Arc<Function>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usage(functions: &BTreeMap<FunctionName, Arc<Function>>) -> AccountUsage {
    let sizes = functions.values().map(|function| function.record.shown().code.size);
    AccountUsage { total_code_size: sizes.sum(), function_count: functions.len() as u64 }
}

fn report(functions: &BTreeMap<FunctionName, Arc<Function>>) {
    let usage = usage(functions);
    metrics::holdings(usage.function_count, usage.total_code_size);
}
