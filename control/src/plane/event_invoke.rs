//! What is to become of a function's asynchronous invocations: its `FunctionEventInvokeConfig`, and what happens to a loop.
//!
//! ```text
//!  put, update, delete ──► the function's turn ─► check ─► record ─► catalogue ─┬─► get, list           as it was set
//!  (of a config, of what happens to loops)                                      │
//!  UpdateFunctionConfiguration ─► deployment with its dead-letter queue, served ┴─► EventInvokePolicy   with defaults
//! ```
//! No environment knows any of this: a change makes no deployment, retires none, and is no revision of the function.
//! Destinations are parsed here, once. Of functions it is known that they exist; of all others that shows at delivery,
//! which is not done here.
//!
//! Messages are AWS's own as far as they were recorded there; what is ours stands behind that.

use std::{ops::Bound, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use types::{
    ApiError, Destination, EventInvokePolicy, FunctionArn, FunctionRef, Qualifier, RecursiveLoop, Version,
    api::{
        DestinationConfig, DestinationSettings, EventInvokeConfigPage, EventInvokeSettings,
        FunctionEventInvokeConfig, OnOutcome, RecursionConfig,
    },
    limits,
};

use super::{
    ControlPlane, Shared,
    catalogue::Function,
    errors::{ChangeError, invalid, no_event_invoke_config, no_such_function},
    settings::in_range,
};
use crate::record::EventInvokeConfig;

/// What an invocation comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
}

impl ControlPlane {
    /// PutFunctionEventInvokeConfig: replaces all there is. Durable on return.
    pub async fn put_function_event_invoke_config(
        &self,
        function: &FunctionRef,
        settings: EventInvokeSettings,
    ) -> Result<FunctionEventInvokeConfig, ApiError> {
        let function = function.clone();
        self.change("put_function_event_invoke_config", function.name.clone(), move |shared| {
            shared.set_event_invoke(&function, &settings, |_| Some(EventInvokeConfig::default()))
        })
        .await
    }

    /// UpdateFunctionEventInvokeConfig: changes what is given, each destination by itself. Durable on return.
    pub async fn update_function_event_invoke_config(
        &self,
        function: &FunctionRef,
        settings: EventInvokeSettings,
    ) -> Result<FunctionEventInvokeConfig, ApiError> {
        let function = function.clone();
        self.change("update_function_event_invoke_config", function.name.clone(), move |shared| {
            shared.set_event_invoke(&function, &settings, std::convert::identity)
        })
        .await
    }

    /// DeleteFunctionEventInvokeConfig. Durable on return.
    pub async fn delete_function_event_invoke_config(&self, function: &FunctionRef) -> Result<(), ApiError> {
        let function = function.clone();
        self.change("delete_function_event_invoke_config", function.name.clone(), move |shared| {
            let (found, qualifier, _) = shared.event_invoke(&function)?;
            let mut record = found.record.clone();
            record.event_invoke.remove(&qualifier);
            shared.replace(&found, record)
        })
        .await
    }

    /// GetFunctionEventInvokeConfig.
    pub fn get_function_event_invoke_config(
        &self,
        function: &FunctionRef,
    ) -> Result<FunctionEventInvokeConfig, ApiError> {
        let (found, qualifier, config) = self.0.event_invoke(function)?;
        Ok(shown(&found.record.arn, &qualifier, &config))
    }

    /// ListFunctionEventInvokeConfigs: at most 50 at once, in the order of their qualifiers.
    pub fn list_function_event_invoke_configs(
        &self,
        function: &FunctionRef,
        marker: Option<&str>,
        max_items: Option<usize>,
    ) -> Result<EventInvokeConfigPage, ApiError> {
        let record = &self.0.configurable(function)?.record;
        let behind = marker.map(read_marker).transpose()?;
        let most = limits::LIST_EVENT_INVOKE_CONFIGS_PAGE;
        let count = max_items.unwrap_or(most).clamp(1, most);
        let behind = behind.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = record.event_invoke.range::<String, _>((behind, Bound::Unbounded));
        let page: Vec<_> = rest.by_ref().take(count).collect();
        let last = page.last().filter(|_| rest.next().is_some());
        Ok(EventInvokeConfigPage {
            next_marker: last.map(|(qualifier, _)| URL_SAFE_NO_PAD.encode(qualifier)),
            function_event_invoke_configs: page
                .iter()
                .map(|(qualifier, config)| shown(&record.arn, qualifier, config))
                .collect(),
        })
    }

    /// PutFunctionRecursionConfig. Durable on return.
    pub async fn put_function_recursion_config(
        &self,
        function: &FunctionRef,
        recursive_loop: RecursiveLoop,
    ) -> Result<RecursionConfig, ApiError> {
        let function = function.clone();
        self.change("put_function_recursion_config", function.name.clone(), move |shared| {
            let found = shared.find(&function)?;
            let mut record = found.record.clone();
            record.recursive_loop = recursive_loop;
            shared.replace(&found, record)?;
            Ok(RecursionConfig { recursive_loop })
        })
        .await
    }

    /// GetFunctionRecursionConfig.
    pub fn get_function_recursion_config(&self, function: &FunctionRef) -> Result<RecursionConfig, ApiError> {
        Ok(RecursionConfig { recursive_loop: self.0.find(function)?.record.recursive_loop })
    }

    /// What is to become of the function's asynchronous invocations now; `None` where there is no such function. No disk,
    /// no key service: for each event that ends.
    #[must_use]
    pub fn event_invoke_policy(&self, function: &FunctionRef) -> Option<EventInvokePolicy> {
        self.0.find(function).ok().map(|found| found.policy.clone())
    }
}

impl Shared {
    /// `base` makes of what there is what the settings change.
    fn set_event_invoke(
        &self,
        function: &FunctionRef,
        settings: &EventInvokeSettings,
        base: impl FnOnce(Option<EventInvokeConfig>) -> Option<EventInvokeConfig>,
    ) -> Result<FunctionEventInvokeConfig, ChangeError> {
        check(settings)?;
        let found = self.configurable(function)?;
        let (arn, qualifier) = (&found.record.arn, qualifier(function));
        let base = base(found.record.event_invoke.get(&qualifier).cloned())
            .ok_or_else(|| no_event_invoke_config(&arn.qualified(&qualifier)))?;
        let (on_success, on_failure) = match &settings.destinations {
            None => (base.on_success, base.on_failure),
            Some(given) => (
                self.destination(arn, given, Outcome::Success, base.on_success)?,
                self.destination(arn, given, Outcome::Failure, base.on_failure)?,
            ),
        };
        let config = EventInvokeConfig {
            maximum_retry_attempts: settings.maximum_retry_attempts.or(base.maximum_retry_attempts),
            maximum_event_age: settings.maximum_event_age.or(base.maximum_event_age),
            on_success,
            on_failure,
            last_modified: self.now(),
        };
        let answer = shown(arn, &qualifier, &config);
        let mut record = found.record.clone();
        record.event_invoke.insert(qualifier, config);
        self.replace(&found, record)?;
        Ok(answer)
    }

    /// The function and qualifier that a configuration is set for.
    fn configurable(&self, function: &FunctionRef) -> Result<Arc<Function>, ApiError> {
        self.refuse_elsewhere(function)?;
        self.find(function).map_err(|_| no_such_function())
    }

    /// A configuration that is there, and whose it is.
    fn event_invoke(
        &self,
        function: &FunctionRef,
    ) -> Result<(Arc<Function>, String, EventInvokeConfig), ApiError> {
        self.refuse_elsewhere(function)?;
        let qualifier = qualifier(function);
        let found = self.find(function).ok().and_then(|found| {
            let config = found.record.event_invoke.get(&qualifier)?.clone();
            Some((found, config))
        });
        match found {
            Some((found, config)) => Ok((found, qualifier, config)),
            None => Err(no_event_invoke_config(&self.arn(&function.name).qualified(&qualifier))),
        }
    }

    /// What a caller makes of one destination of `function`, which was `old`.
    fn destination(
        &self,
        function: &FunctionArn,
        given: &DestinationSettings,
        outcome: Outcome,
        old: Option<Destination>,
    ) -> Result<Option<Destination>, ApiError> {
        let arn = match outcome {
            Outcome::Success => &given.on_success,
            Outcome::Failure => &given.on_failure,
        };
        let arn = match arn.as_deref() {
            None => return Ok(old),
            Some("") => return Ok(None),
            Some(arn) => arn,
        };
        let destination = parse_destination(arn, outcome).map_err(|why| invalid_destinations(given, &why))?;
        self.check_function_destination(function, &destination)?;
        Ok(Some(destination))
    }

    /// A function can be the destination if it is here and another.
    fn check_function_destination(
        &self,
        function: &FunctionArn,
        destination: &Destination,
    ) -> Result<(), ApiError> {
        let Destination::Function { region, account, name, qualifier } = destination else {
            return Ok(());
        };
        let refuse = |why| Err(invalid(format!("The destination ARN {destination} is invalid.{why}")));
        if (region, account) != (&function.region, &function.account) {
            return refuse(" It is of another account or region.");
        }
        let named =
            FunctionRef { region: None, account: None, name: name.clone(), qualifier: qualifier.clone() };
        if self.find(&named).is_err() {
            return refuse("");
        }
        if *name == function.name {
            return Err(invalid("You can't specify the function as a destination for itself."));
        }
        Ok(())
    }
}

fn check(settings: &EventInvokeSettings) -> Result<(), ApiError> {
    if *settings == EventInvokeSettings::default() {
        return Err(invalid("You must specify at least one of error handling or destination setting."));
    }
    if let Some(attempts) = settings.maximum_retry_attempts {
        in_range("maximumRetryAttempts", attempts, 0, limits::MAX_RETRY_ATTEMPTS)?;
    }
    if let Some(age) = settings.maximum_event_age {
        let seconds = |limit: Duration| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
        let (least, most) = (seconds(limits::MIN_EVENT_AGE), seconds(limits::MAX_EVENT_AGE));
        in_range("maximumEventAgeInSeconds", age, least, most)?;
    }
    Ok(())
}

/// The qualifier that a configuration belongs to.
fn qualifier(function: &FunctionRef) -> String {
    function.qualifier.as_ref().map_or_else(|| Version::Latest.to_string(), ToString::to_string)
}

fn parse_destination(arn: &str, outcome: Outcome) -> Result<Destination, String> {
    match arn.parse() {
        Ok(Destination::S3 { .. }) if outcome == Outcome::Success => {
            Err(format!("{arn:?} is an S3 bucket, which can be OnFailure only"))
        }
        Ok(destination) => Ok(destination),
        Err(error) => Err(error.to_string()),
    }
}

/// AWS says what was given; why comes behind it.
fn invalid_destinations(given: &DestinationSettings, why: &str) -> ApiError {
    let part = |outcome: &str, arn: &Option<String>| match arn.as_deref() {
        None | Some("") => "null".to_owned(),
        Some(arn) => format!("{outcome}(destination={arn})"),
    };
    let (success, failure) = (part("OnSuccess", &given.on_success), part("OnFailure", &given.on_failure));
    invalid(format!(
        "The provided destination config DestinationConfig(onSuccess={success}, onFailure={failure}) is invalid. {why}"
    ))
}

fn shown(arn: &FunctionArn, qualifier: &str, config: &EventInvokeConfig) -> FunctionEventInvokeConfig {
    let outcome = |destination: &Option<Destination>| OnOutcome {
        destination: destination.as_ref().map(ToString::to_string),
    };
    FunctionEventInvokeConfig {
        last_modified: Duration::from_millis(config.last_modified).as_secs_f64(),
        function_arn: arn.qualified(&qualifier),
        maximum_retry_attempts: config.maximum_retry_attempts,
        maximum_event_age_in_seconds: config.maximum_event_age,
        destination_config: DestinationConfig {
            on_success: outcome(&config.on_success),
            on_failure: outcome(&config.on_failure),
        },
    }
}

fn read_marker(marker: &str) -> Result<String, ApiError> {
    URL_SAFE_NO_PAD
        .decode(marker)
        .ok()
        .and_then(|text| String::from_utf8(text).ok())
        .filter(|qualifier| qualifier.parse::<Qualifier>().is_ok())
        .ok_or_else(|| invalid("The Marker is not one that ListFunctionEventInvokeConfigs returned."))
}
