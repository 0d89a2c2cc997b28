//! The first half: two functions made and invoked with the AWS CLI, and what it says of wrong inputs.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{
    aws::Aws,
    report::{self, Timings},
    screen::{one_line, part},
    write_zip,
};

const PYTHON: &str = include_str!("lambda_function.py");
const WARM_INVOCATIONS: usize = 5;

/// A function that is shown.
struct Shown<'a> {
    name: &'static str,
    runtime: &'static str,
    handler: &'static str,
    zip: &'a Path,
    payload: &'static str,
    /// What its answer must contain, or the demo has failed.
    expected: &'static str,
}

/// Returns how long invocations took.
pub(super) fn show(aws: &Aws, scratch: &Path, rust_zip: &Path) -> anyhow::Result<String> {
    let python_zip = scratch.join("demo-python.zip");
    write_zip(&python_zip, "lambda_function.py", PYTHON)?;
    let functions = [
        Shown {
            name: "demo-python",
            runtime: "python3.11",
            handler: "lambda_function.lambda_handler",
            zip: &python_zip,
            payload: r#"{"name": "world"}"#,
            expected: "Hello, world!",
        },
        Shown {
            name: "demo-rust",
            runtime: "provided.al2023",
            handler: "bootstrap",
            zip: rust_zip,
            payload: r#"{"answer": 42}"#,
            expected: "42",
        },
    ];
    let mut figures = Vec::new();
    for function in &functions {
        figures.push(format!("{} {}", function.runtime, show_function(aws, function)?));
    }
    let refused = part("Wrong inputs, and what the tools say", || show_wrong_inputs(aws, functions[0].name))?;
    for function in &functions {
        aws.run(&["lambda", "delete-function", "--function-name", function.name])?;
    }
    Ok(format!("{}; {refused} wrong inputs refused", figures.join("; ")))
}

fn show_function(aws: &Aws, function: &Shown<'_>) -> anyhow::Result<Timings> {
    let Shown { name, runtime, .. } = function;
    part(&format!("Create {name} ({runtime})"), || {
        aws.create_function(name, runtime, function.handler, function.zip, &[])?;
        println!("active");
        Ok(())
    })?;
    part(&format!("Invoke {name}: {}", function.payload), || invoke_function(aws, function))
}

fn invoke_function(aws: &Aws, function: &Shown<'_>) -> anyhow::Result<Timings> {
    let name = function.name;
    let cold = aws.invoke(name, function.payload)?;
    println!("answer: {}", cold.answer);
    ensure!(cold.answer.contains(function.expected), "{name} answered {:?}", cold.answer);
    cold.log.lines().for_each(|line| println!("  log │ {line}"));
    let first = report::parse(&cold.log)?;
    ensure!(first.init.is_some(), "the first invocation of {name} reports no init phase");

    let mut warm = Vec::new();
    for _ in 0..WARM_INVOCATIONS {
        let report = report::parse(&aws.invoke(name, function.payload)?.log)?;
        ensure!(report.init.is_none(), "{name} was not kept warm: a later invocation initialised again");
        warm.push(report.duration);
    }
    let timings = Timings::of(first, warm);
    println!("{timings}, as the REPORT lines say");
    Ok(timings)
}

/// Inputs that must be refused; returns how many were.
fn show_wrong_inputs(aws: &Aws, function: &str) -> anyhow::Result<usize> {
    let wrong_key = aws.with_variable("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-server");
    let cases = [
        (
            "a payload that is not JSON",
            aws.try_invoke(function, "{\"name\": ")?,
            "InvalidRequestContentException",
        ),
        ("a function that does not exist", aws.try_invoke("nobody", "{}")?, "ResourceNotFoundException"),
        ("a wrong secret key", wrong_key.try_invoke(function, "{}")?, "InvalidSignatureException"),
    ];
    let count = cases.len();
    for (what, outcome, expected) in cases {
        let error = outcome.err().with_context(|| format!("{what} was accepted"))?;
        println!("{what}:\n  {}", one_line(&error));
        ensure!(error.contains(expected), "{what} should be answered {expected}, not: {}", one_line(&error));
    }
    Ok(count)
}
