//! Who may ask, through HTTP.

use bytes::Bytes;
use ingest::{Authentication, Config, Server, StartError};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Edge, config, echo, send, services, unsigned};

const INVOKE: &str = "/2015-03-31/functions/echo/invocations";
/// SHA-256 of `{}`.
const EMPTY_OBJECT: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

#[tokio::test]
async fn only_the_holder_of_a_key_is_served() {
    let mut edge = Edge::start(config(), echo()).await;
    edge.create("echo").await;
    assert_eq!(edge.invoke(&[], "{}").await.status, 200);
    assert_eq!(
        send(edge.address, unsigned("POST", INVOKE)).await.error().1,
        "MissingAuthenticationTokenException"
    );

    edge.key.1.push('x');
    let reply = edge.invoke(&[], "{}").await;
    assert_eq!((reply.error().0, reply.error().1), (403, "InvalidSignatureException"));
    assert!(
        reply
            .error()
            .2
            .starts_with("The request signature we calculated does not match the signature you provided.")
    );
    assert!(reply.json().get("Type").is_none());

    edge.key.0 = String::from("AKIDSTRANGER");
    assert_eq!(edge.invoke(&[], "{}").await.error().1, "UnrecognizedClientException");
}

#[tokio::test]
async fn a_body_that_is_not_the_signed_one_is_refused() {
    let edge = Edge::start(config(), echo()).await;
    edge.create("echo").await;
    let swapped = edge
        .request("POST", INVOKE, &[], Bytes::from_static(b"{}"))
        .map(|_| Bytes::from_static(b"[]").into());
    assert_eq!(send(edge.address, swapped).await.error().1, "InvalidSignatureException");

    let declared = [("x-amz-content-sha256", EMPTY_OBJECT)];
    assert_eq!(edge.invoke(&declared, "{}").await.status, 200);
    let reply = edge.invoke(&declared, "[]").await;
    assert_eq!((reply.error().0, reply.error().1), (403, "InvalidSignatureException"));
    let reply = edge.invoke(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], "{}").await;
    assert_eq!(reply.error().1, "InvalidSignatureException");
}

#[tokio::test]
async fn a_wrong_signature_over_a_declared_hash_is_refused_before_the_body_is_asked_for() {
    let mut edge = Edge::start(config(), echo()).await;
    edge.key.1.push('x');
    let request = edge.request("POST", INVOKE, &[("x-amz-content-sha256", EMPTY_OBJECT)], Bytes::new());
    let mut head = format!("POST {INVOKE} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n");
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
}

#[tokio::test]
async fn without_authentication_only_loopback_is_served() {
    let open = Config { authentication: Authentication::Disabled, ..config() };
    let everywhere =
        Config { listen: vec!["127.0.0.1:0".parse().unwrap(), "0.0.0.0:0".parse().unwrap()], ..open.clone() };
    let dir = TempDir::new().unwrap();
    let error = Server::bind(everywhere, services(&dir, echo())).await.unwrap_err();
    assert!(matches!(error, StartError::OpenToOthers { .. }), "{error}");

    let edge = Edge::start(open, echo()).await;
    edge.create("echo").await;
    assert_eq!(edge.invoke(&[], "{}").await.status, 200);
    let detail = edge.send("GET", "/2015-03-31/functions/echo", &[], "").await.json();
    let link = detail["Code"]["Location"].as_str().unwrap();
    let target = link.strip_prefix(&format!("http://{}", edge.address)).unwrap();
    assert_eq!(send(edge.address, unsigned("GET", target)).await.body, crate::support::zip_bytes());
}
