//! The AWS CLI, unmodified: only environment variables point it at the server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// Runs `aws` commands.
pub(super) struct Aws {
    program: PathBuf,
    variables: Vec<(&'static str, String)>,
    /// Where payloads and answers are handed over.
    scratch: PathBuf,
}

/// What an invocation answered.
pub(super) struct Invocation {
    pub(super) answer: String,
    /// The last 4 KB that the function printed, with START, END and REPORT.
    pub(super) log: String,
}

/// What `aws lambda invoke` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InvokeOutput {
    status_code: u16,
    function_error: Option<String>,
    log_result: String,
}

impl Aws {
    pub(super) fn new(program: &Path, mut variables: Vec<(&'static str, String)>, scratch: &Path) -> Self {
        // The user's own profiles, and a pager, would come between the demo and the server.
        for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
            variables.push((name, "/dev/null".to_owned()));
        }
        variables.push(("AWS_PAGER", String::new()));
        Self { program: program.to_owned(), variables, scratch: scratch.to_owned() }
    }

    /// The same with one variable changed.
    pub(super) fn with_variable(&self, name: &'static str, value: &str) -> Self {
        let mut variables = self.variables.clone();
        variables.push((name, value.to_owned()));
        Self { program: self.program.clone(), variables, scratch: self.scratch.clone() }
    }

    /// Creates a function, with further `options`, and waits until it can be invoked.
    pub(super) fn create_function(
        &self,
        name: &str,
        runtime: &str,
        handler: &str,
        zip: &Path,
        options: &[&str],
    ) -> anyhow::Result<()> {
        let zip = format!("fileb://{}", zip.display());
        let arguments = ["lambda", "create-function", "--function-name", name, "--runtime", runtime];
        let role = "arn:aws:iam::000000000000:role/demo";
        let code = ["--handler", handler, "--role", role, "--zip-file", &zip];
        self.run(&[&arguments[..], &code, options].concat())?;
        self.run(&["lambda", "wait", "function-active-v2", "--function-name", name])?;
        Ok(())
    }

    /// Invokes and expects an answer of the function itself.
    pub(super) fn invoke(&self, name: &str, payload: &str) -> anyhow::Result<Invocation> {
        match self.try_invoke(name, payload)? {
            Ok(invocation) => Ok(invocation),
            Err(error) => bail!("aws lambda invoke: {error}"),
        }
    }

    /// Invokes; the inner error is what the tool said when the server refused.
    pub(super) fn try_invoke(&self, name: &str, payload: &str) -> anyhow::Result<Result<Invocation, String>> {
        let (done, output) = self.invoke_with(name, payload, &["--log-type", "Tail"])?;
        if !done.status.success() {
            return Ok(Err(last_words(&done)));
        }
        let printed: InvokeOutput = serde_json::from_slice(&done.stdout).context("aws printed no JSON")?;
        let answer = fs::read_to_string(&output).context("aws wrote no answer")?;
        ensure!(printed.status_code == 200, "{name} answered with status {}", printed.status_code);
        if let Some(kind) = printed.function_error {
            bail!("{name} failed ({kind}): {answer}");
        }
        let log = STANDARD.decode(printed.log_result).context("the log tail is not base64")?;
        Ok(Ok(Invocation { answer, log: String::from_utf8_lossy(&log).into_owned() }))
    }

    /// Has an event queued; returns what the tool prints.
    pub(super) fn send_event(&self, name: &str, payload: &str) -> anyhow::Result<String> {
        let (done, _) = self.invoke_with(name, payload, &["--invocation-type", "Event"])?;
        ensure!(done.status.success(), "aws lambda invoke: {}", last_words(&done));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Also returns where the tool writes the function's answer.
    fn invoke_with(&self, name: &str, payload: &str, options: &[&str]) -> anyhow::Result<(Output, PathBuf)> {
        let (input, output) = (self.scratch.join("payload"), self.scratch.join("answer"));
        fs::write(&input, payload)?;
        // `fileb://` means the same to both major versions of the tool; a literal payload does not.
        let payload = format!("fileb://{}", input.display());
        let done = self
            .command(&["lambda", "invoke", "--function-name", name, "--payload", &payload])
            .args(options)
            .args(["--output", "json"])
            .arg(&output)
            .output()
            .with_context(|| self.cannot_run())?;
        Ok((done, output))
    }

    /// Runs a command that must succeed; returns what it printed.
    pub(super) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let done = self.command(arguments).output().with_context(|| self.cannot_run())?;
        if !done.status.success() {
            bail!("aws {}: {}", arguments[..2.min(arguments.len())].join(" "), last_words(&done));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_remove("AWS_PROFILE").env_remove("AWS_SESSION_TOKEN");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn cannot_run(&self) -> String {
        format!("cannot run the AWS CLI ({}); install it, or name it with --aws", self.program.display())
    }
}

fn last_words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
