//! Management operations through HTTP, signed, over a real control plane.

use crate::support::{Edge, config, echo, send, unsigned, zip_bytes};
use serde_json::{Value, json};

const FUNCTION: &str = "/2015-03-31/functions/echo";

#[tokio::test]
async fn a_function_lives_from_create_to_delete() {
    let edge = Edge::start(config(), echo()).await;
    let created = edge.create("echo").await;
    assert_eq!(created.status, 201, "{:?}", created.body);
    assert_eq!(created.header("content-type"), Some("application/json"));
    assert!(created.header("x-amzn-requestid").is_some() && created.header("date").is_some());
    assert_eq!(created.json()["FunctionArn"], "arn:aws:lambda:us-east-1:123456789012:function:echo");

    let shown = edge.send("GET", &format!("{FUNCTION}/configuration"), &[], "").await.json();
    assert_eq!((&shown["State"], &shown["Handler"]), (&json!("Active"), &json!("app.handler")));

    let change = json!({"Timeout": 30, "Environment": {"Variables": {"COLOUR": "blue"}}, "Layers": []});
    let changed = edge.send("PUT", &format!("{FUNCTION}/configuration"), &[], change.to_string()).await;
    assert_eq!((changed.status.as_u16(), &changed.json()["Timeout"]), (200, &json!(30)));
    edge.control.settled().await;

    let code = json!({"ZipFile": crate::support::package(), "DryRun": true, "Publish": false});
    assert_eq!(edge.send("PUT", &format!("{FUNCTION}/code"), &[], code.to_string()).await.status, 200);

    let listed =
        edge.send("GET", "/2015-03-31/functions/?FunctionVersion=ALL&MaxItems=10", &[], "").await.json();
    assert_eq!(listed["Functions"][0]["FunctionName"], "echo");
    let elsewhere = edge
        .send("GET", "/2015-03-31/functions?MasterRegion=eu-central-1&FunctionVersion=ALL", &[], "")
        .await;
    assert_eq!(elsewhere.json(), json!({"Functions": []}));

    let gone = edge.send("DELETE", &format!("{FUNCTION}?Qualifier=%24LATEST"), &[], "").await;
    assert_eq!(gone.error().1, "InvalidParameterValueException");
    let gone = edge.send("DELETE", FUNCTION, &[], "").await;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    let missing = edge.send("GET", FUNCTION, &[], "").await;
    assert_eq!(
        (missing.status.as_u16(), missing.header("x-amzn-errortype")),
        (404, Some("ResourceNotFoundException"))
    );
    assert_eq!(missing.json()["Type"], "User");
    assert!(missing.json()["Message"].as_str().unwrap().contains("function:echo"), "{:?}", missing.body);
}

#[tokio::test]
async fn a_function_is_found_by_its_encoded_arn() {
    let edge = Edge::start(config(), echo()).await;
    edge.create("echo").await;
    let target =
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Aecho/configuration";
    assert_eq!(edge.send("GET", target, &[], "").await.json()["FunctionName"], "echo");
}

#[tokio::test]
async fn the_link_to_the_code_gives_the_package_back_to_whoever_holds_it() {
    let edge = Edge::start(config(), echo()).await;
    edge.create("echo").await;
    let detail: Value = edge.send("GET", FUNCTION, &[], "").await.json();
    assert_eq!(detail["Code"]["RepositoryType"], "S3");
    assert!(detail.get("Tags").is_none());
    let location = detail["Code"]["Location"].as_str().unwrap();
    let base = format!("http://{}", edge.address);
    let target = location.strip_prefix(&base).unwrap();
    let get = |target: &str| {
        let mut request = unsigned("GET", target);
        request.headers_mut().insert("host", edge.address.to_string().parse().unwrap());
        send(edge.address, request)
    };
    let package = get(target).await;
    assert_eq!((package.status.as_u16(), package.body.as_ref()), (200, zip_bytes().as_slice()));
    assert_eq!(get(&target.replace("X-Amz-Expires=600", "X-Amz-Expires=700")).await.status, 403);
    assert_eq!(get(target.split('?').next().unwrap()).await.status, 403);

    let code = json!({"ZipFile": crate::support::package()});
    assert_eq!(edge.send("PUT", &format!("{FUNCTION}/code"), &[], code.to_string()).await.status, 200);
    edge.control.settled().await;
    assert_eq!(get(target).await.status, 404, "the link names one deployment");
}

#[tokio::test]
async fn account_settings_count_what_is_there() {
    let edge = Edge::start(config(), echo()).await;
    edge.create("echo").await;
    let settings = edge.send("GET", "/2016-08-19/account-settings/", &[], "").await.json();
    assert_eq!(settings["AccountUsage"]["FunctionCount"], 1);
    assert_eq!(settings["AccountUsage"]["TotalCodeSize"], zip_bytes().len());
    assert_eq!(settings["AccountLimit"]["ConcurrentExecutions"], 1000);
}

#[tokio::test]
async fn bad_documents_and_values_have_their_own_errors() {
    let edge = Edge::start(config(), echo()).await;
    let create = async |body: &str| edge.send("POST", "/2015-03-31/functions", &[], body.to_owned()).await;
    let reply = create("{").await;
    assert_eq!((reply.error().0, reply.error().1), (400, "SerializationException"));
    assert!(reply.error().2.starts_with("Could not parse request body into json: "));
    assert_eq!(create("[]").await.error().1, "SerializationException");
    let reply = create("").await;
    assert_eq!((reply.error().0, reply.error().1), (400, "ValidationException"));
    assert!(reply.error().2.starts_with("3 validation errors detected: "), "{:?}", reply.body);
    assert!(reply.json().get("Type").is_none());
    let whole =
        json!({"FunctionName": "f", "Role": crate::support::ROLE, "Handler": "a.b", "Runtime": "python3.11"});
    let with = |name: &str, value: Value| {
        let mut body = whole.clone();
        body[name] = value;
        body.to_string()
    };
    assert_eq!(create(&with("Code", json!({"ZipFile": "***"}))).await.error().1, "SerializationException");
    assert_eq!(
        create(&with("Code", json!({}))).await.error().2,
        "Please provide a source for function code."
    );
    let reply = create(&with("Code", json!({"ImageUri": "image"}))).await;
    assert_eq!(reply.error().0, 400);
    assert!(reply.error().2.starts_with("Code.ImageUri is not available yet"));
    assert_eq!(
        create(&with("Code", json!({"ZipFile": "AAAA"}))).await.error().1,
        "InvalidParameterValueException"
    );
}

#[tokio::test]
async fn what_is_not_built_says_so_and_what_does_not_exist_too() {
    let edge = Edge::start(config(), echo()).await;
    let reply = edge.send("POST", &format!("{FUNCTION}/versions"), &[], "{}").await;
    assert_eq!(
        reply.error(),
        (501, "NotImplementedException", String::from("PublishVersion is not available yet."))
    );
    let reply = send(edge.address, unsigned("POST", &format!("{FUNCTION}/versions"))).await;
    assert_eq!(reply.error().1, "MissingAuthenticationTokenException");
    let reply = send(edge.address, unsigned("GET", "/no/such/path")).await;
    assert_eq!((reply.error().0, reply.error().1), (404, "UnknownOperationException"));
}
