//! Activation: the step from "stored" to "served".
//!
//! It opens everything an environment of the new deployment would open. If all of it opens, the record says so, durably; if
//! something never will, the record says that. It is idempotent, and taken up again at start, so a crash in between costs nothing.

use std::{io, sync::Arc, sync::Weak, time::Duration};

use types::{DeploymentId, FunctionName, KeyError};
use uuid::Uuid;

use super::{Busy, ControlError, Shared, catalogue::Function, change, errors::ChangeError};
use crate::record::{Deployment, FunctionRecord, State, Update};

/// How long to wait after a failure that may pass, at first and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Starts activation of a function if it has a deployment to be activated. Calling it once too often does no harm.
pub(super) fn resume(shared: &Arc<Shared>, name: &FunctionName) {
    let Some(next) =
        shared.catalogue.get(name).and_then(|function| awaiting(&function.record).map(|next| next.id))
    else {
        return;
    };
    let busy = Busy::new(shared);
    tokio::spawn(activate(busy, name.clone(), next));
}

/// Tries until it is decided or the control plane is gone. While it waits it keeps nothing open.
async fn activate(mut busy: Busy, name: FunctionName, next: DeploymentId) {
    let mut wait = FIRST_WAIT;
    loop {
        let turn_name = name.clone();
        let result =
            change::in_turn(busy.shared(), &name, move |shared| shared.activate(&turn_name, next)).await;
        let Err(error) = result else { return };
        tracing::warn!(function = %name, %error, ?wait, "activation failed; trying again");
        let weak: Weak<Shared> = Arc::downgrade(busy.shared());
        drop(busy);
        tokio::time::sleep(wait).await;
        let Some(shared) = weak.upgrade() else { return };
        busy = Busy::new(&shared);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The deployment of a record that is stored and not yet served.
fn awaiting(record: &FunctionRecord) -> Option<&Deployment> {
    match (&record.update, &record.state) {
        (Update::InProgress(next), _) => Some(next),
        (_, State::Pending) => Some(&record.current),
        _ => None,
    }
}

impl Shared {
    fn activate(&self, name: &FunctionName, id: DeploymentId) -> Result<(), ChangeError> {
        let Some(function) = self.catalogue.get(name) else {
            return Ok(());
        };
        let Some(next) = awaiting(&function.record).filter(|next| next.id == id) else {
            return Ok(());
        };
        match self.verify(&function, next) {
            Ok(()) => self.succeed(&function, next),
            Err(error) if lasts(&error) => {
                tracing::error!(function = %function.record.arn, %error, "a new deployment does not open");
                self.fail(&function, next, error.to_string())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn verify(&self, function: &Function, next: &Deployment) -> Result<(), ControlError> {
        let arn = &function.record.arn;
        self.variables(arn, next)?;
        let served = function.record.state == State::Active
            && next.code.artefact == function.record.current.code.artefact;
        if !served {
            self.artefacts.verify(&*self.keys, arn, &next.code)?;
        }
        Ok(())
    }

    fn succeed(&self, function: &Function, next: &Deployment) -> Result<(), ChangeError> {
        let old = &function.record.current;
        let record = FunctionRecord {
            revision: Uuid::new_v4(),
            state: State::Active,
            update: Update::Successful,
            current: next.clone(),
            ..function.record.clone()
        };
        self.replace(function, record)?;
        if old.id != next.id {
            self.retire(old.id);
        }
        if old.code.artefact != next.code.artefact {
            self.remove_artefacts(old.code.artefact);
        }
        Ok(())
    }

    fn fail(&self, function: &Function, next: &Deployment, reason: String) -> Result<(), ChangeError> {
        let old = &function.record;
        let (state, update) = match &old.state {
            State::Pending => (State::Failed { reason: reason.clone() }, Update::Failed { reason }),
            other => (other.clone(), Update::Failed { reason }),
        };
        self.replace(function, FunctionRecord { revision: Uuid::new_v4(), state, update, ..old.clone() })?;
        if next.code.artefact != old.current.code.artefact {
            self.remove_artefacts(next.code.artefact);
        }
        Ok(())
    }
}

/// Whether trying again cannot help.
fn lasts(error: &ControlError) -> bool {
    match error {
        ControlError::Key(KeyError::Unavailable(_)) => false,
        ControlError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => true,
    }
}
