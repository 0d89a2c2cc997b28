use http::HeaderMap;
use types::{ApiError, ErrorCode};

use super::{Members, lower_first};
use crate::model::{Json, Model};

const ROLE: &str = "arn:aws:iam::123456789012:role/r";

fn check(method: &str, path: &str, query: &[(&str, &str)], body: &str) -> Result<(), ApiError> {
    let model = Model::get();
    let (operation, params) = model.route(method, path, None).unwrap();
    let query: Vec<_> = query.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let body = if body.is_empty() { Json::Null } else { Json::parse(body.as_bytes()).unwrap() };
    let headers = HeaderMap::new();
    model.validate(operation, &Members { params: &params, query: &query, headers: &headers, body: &body })
}

fn create(members: &str) -> Result<(), ApiError> {
    let body = format!(r#"{{"FunctionName":"echo","Role":"{ROLE}","Code":{{"ZipFile":"UEs="}}{members}}}"#);
    check("POST", "/2015-03-31/functions", &[], &body)
}

fn message(result: Result<(), ApiError>, code: ErrorCode) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code, code, "{}", error.message);
    error.message
}

#[test]
fn single_constraints_fail_in_the_words_of_aws() {
    let named = "1 validation error detected: Value ";
    let table = [
        (
            r#","Timeout":0"#,
            "'0' at 'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1",
        ),
        (
            r#","MemorySize":127"#,
            "'127' at 'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128",
        ),
        (
            r#","PackageType":"Tar""#,
            "'Tar' at 'packageType' failed to satisfy constraint: Member must satisfy enum value set: [Zip, Image]",
        ),
        (
            r#","TracingConfig":{"Mode":"Off"}"#,
            "'Off' at 'tracingConfig.mode' failed to satisfy constraint: Member must satisfy enum value set: [Active, PassThrough]",
        ),
        (
            r#","EphemeralStorage":{"Size":1}"#,
            "'1' at 'ephemeralStorage.size' failed to satisfy constraint: Member must have value greater than or equal to 512",
        ),
        (
            r#","EphemeralStorage":{}"#,
            "null at 'ephemeralStorage.size' failed to satisfy constraint: Member must not be null",
        ),
        (
            r#","Handler":"a b""#,
            r"'a b' at 'handler' failed to satisfy constraint: Member must satisfy regular expression pattern: [^\s]+",
        ),
        (
            r#","Architectures":["sparc"]"#,
            "'[sparc]' at 'architectures' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy \
             enum value set: [x86_64, arm64], Member must not be null]",
        ),
        (
            r#","Architectures":["arm64","x86_64"]"#,
            "'[arm64, x86_64]' at 'architectures' failed to satisfy constraint: Member must have length less than or equal to 1",
        ),
        (
            r#","FileSystemConfigs":[{"LocalMountPath":"/mnt/a"}]"#,
            "null at 'fileSystemConfigs.1.member.arn' failed to satisfy constraint: Member must not be null",
        ),
    ];
    for (members, expected) in table {
        assert_eq!(message(create(members), ErrorCode::Validation), format!("{named}{expected}"));
    }
}

#[test]
fn a_bad_name_in_the_path_quotes_the_pattern() {
    let text = message(check("GET", "/2015-03-31/functions/foo%20bar", &[], ""), ErrorCode::Validation);
    assert!(
        text.starts_with(
            "1 validation error detected: Value 'foo bar' at 'functionName' failed to satisfy constraint: Member must \
             satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?"
        ),
        "{text}"
    );
}

#[test]
fn several_errors_are_counted_and_joined() {
    let text =
        message(check("POST", "/2015-03-31/functions", &[], r#"{"Timeout":-1}"#), ErrorCode::Validation);
    assert!(text.starts_with("4 validation errors detected: Value null at 'code'"), "{text}");
    assert_eq!(text.matches("; Value ").count(), 3, "{text}");
}

#[test]
fn a_flood_of_errors_is_counted_but_not_listed() {
    let items = vec!["{}"; 1000].join(",");
    let text = message(create(&format!(r#","FileSystemConfigs":[{items}]"#)), ErrorCode::Validation);
    assert!(text.starts_with("2001 validation errors detected"), "{text}");
    assert!(text.len() < 5_000);
}

#[test]
fn secret_values_are_not_repeated() {
    let text = message(create(r#","Environment":{"Variables":{"1BAD":"s3cret"}}"#), ErrorCode::Validation);
    assert_eq!(
        text,
        "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy \
         constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]"
    );
}

#[test]
fn a_long_value_is_repeated_only_in_part() {
    let text = message(create(&format!(r#","Handler":"{}""#, "h".repeat(100_000))), ErrorCode::Validation);
    assert!(text.contains("hhh…'") && text.len() < 1000, "{} bytes", text.len());
}

#[test]
fn an_unknown_runtime_is_an_invalid_parameter() {
    let text = message(create(r#","Runtime":"cobol85""#), ErrorCode::InvalidParameterValue);
    assert!(text.starts_with(
        "Value cobol85 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: ["
    ));
    assert!(text.contains("python3.11") && text.ends_with("] or be a valid ARN"));
}

#[test]
fn constraints_are_reported_before_an_unknown_runtime() {
    let text = message(create(r#","Runtime":"cobol85","Timeout":0"#), ErrorCode::Validation);
    assert!(text.starts_with("1 validation error detected: Value '0' at 'timeout'"), "{text}");
}

#[test]
fn wrong_json_types_are_serialization_errors() {
    for (members, expected) in [
        (r#","Timeout":"3""#, "STRING_VALUE can not be converted to an Integer"),
        (r#","Timeout":1.5"#, "DECIMAL_VALUE can not be converted to an Integer"),
        (r#","Description":7"#, "NUMBER_VALUE can not be converted to a String"),
        (r#","Publish":"yes""#, "STRING_VALUE can not be converted to a Boolean"),
        (r#","Handler":{}"#, "Start of structure or map found where not expected."),
        (r#","Handler":[]"#, "Start of list found where not expected"),
        (r#","Layers":"x""#, "Expected list or null"),
        (r#","Tags":[]"#, "Expected map or structure or null"),
        (r#","Environment":{"Variables":{"AB":true}}"#, "TRUE_VALUE can not be converted to a String"),
    ] {
        assert_eq!(message(create(members), ErrorCode::Serialization), expected);
    }
}

#[test]
fn query_values_take_the_type_of_their_shape() {
    let list = |query: &[(&str, &str)]| check("GET", "/2015-03-31/functions", query, "");
    assert_eq!(list(&[("MaxItems", "10"), ("FunctionVersion", "ALL")]), Ok(()));
    message(list(&[("MaxItems", "many")]), ErrorCode::Serialization);
    let text = message(list(&[("MaxItems", "0")]), ErrorCode::Validation);
    assert!(text.contains("Value '0' at 'maxItems'"), "{text}");
}

#[test]
fn null_members_and_unknown_members_are_ignored() {
    assert_eq!(create(r#","Timeout":null,"Layers":null,"NoSuchMember":{"a":[1]}"#), Ok(()));
}

#[test]
fn names_take_a_small_first_letter() {
    assert_eq!(lower_first("FunctionName"), "functionName");
    assert_eq!(lower_first(""), "");
}
