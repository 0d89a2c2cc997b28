//! `waterwheel env`

use std::{io::ErrorKind, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use control::AccessKeys;

use crate::{
    cli::Global,
    config::Config,
    data_dir::{DataDir, client_url},
};

/// Print the exports that point the AWS CLI and SDKs of a shell here
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  eval \"$(waterwheel env)\"
  waterwheel env --shell fish | source

AWS_ENDPOINT_URL_LAMBDA redirects the Lambda API alone: other services of the same SDK
go where they went before.")]
pub(crate) struct Arguments {
    /// Shell to print for
    #[arg(long, value_enum, default_value_t = Shell::Sh)]
    shell: Shell,
}

/// A family of shells with one quoting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh, dash, ksh
    Sh,
    Fish,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::read(&global.layers()?)?;
    for (name, value) in variables(&DataDir::at(&global.data_dir), &config)? {
        println!("{}", arguments.shell.export(name, &value));
    }
    Ok(ExitCode::SUCCESS)
}

/// What an AWS client needs to reach the server of a data directory.
pub(crate) fn variables(dir: &DataDir, config: &Config) -> anyhow::Result<[(&'static str, String); 4]> {
    let credentials = dir.credentials();
    if !credentials.exists() {
        bail!(
            "no server was ever started on {dir}: start one with `waterwheel --data-dir {dir} serve`, \
             or name its directory with --data-dir or WATERWHEEL_DATA_DIR",
            dir = dir.path().display()
        );
    }
    let keys = AccessKeys::open_or_create(&credentials).context("cannot read the access keys")?;
    let endpoint = match dir.read_endpoint() {
        Ok(endpoint) => endpoint,
        Err(error) if error.kind() == ErrorKind::NotFound => would_be_endpoint(config)?,
        Err(error) => return Err(error).context("cannot read the server's endpoint file"),
    };
    let key = keys.first();
    Ok([
        ("AWS_ENDPOINT_URL_LAMBDA", endpoint),
        ("AWS_ACCESS_KEY_ID", key.id().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", key.secret().to_owned()),
        ("AWS_DEFAULT_REGION", config.account.region.to_string()),
    ])
}

/// Where the server will be when it is started again: the configured address, unless that is any free port.
fn would_be_endpoint(config: &Config) -> anyhow::Result<String> {
    let listen = config.server.listen;
    if listen.port() == 0 {
        bail!("no server runs here now, and with port 0 its next address is not known: start it first");
    }
    Ok(client_url(listen, config.server.tls.is_some()))
}

// === impl Shell ===

impl Shell {
    fn export(self, name: &str, value: &str) -> String {
        match self {
            Self::Sh => format!("export {name}='{}'", value.replace('\'', r"'\''")),
            // Inside single quotes fish knows two escapes: the quote and the backslash.
            Self::Fish => format!("set -gx {name} '{}'", value.replace('\\', r"\\").replace('\'', r"\'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    #[test]
    fn a_shell_reads_back_exactly_the_value() {
        let value = r#"a'b"c$d\e `f` g"#;
        let script = format!("{}; printf %s \"$X\"", Shell::Sh.export("X", value));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        assert_eq!(Shell::Fish.export("X", r"a'b\c"), r"set -gx X 'a\'b\\c'");
    }

    #[test]
    fn a_directory_without_a_server_says_what_to_do_and_stays_empty() {
        let parent = tempfile::tempdir().unwrap();
        let config = Config::read(&Layers::defaults()).unwrap();
        let error = variables(&DataDir::at(parent.path()), &config).unwrap_err().to_string();
        assert!(error.contains("no server was ever started on ") && error.contains(" serve`"), "{error}");
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_published_endpoint_wins_over_the_configured_address() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&parent.path().join("data")).unwrap();
        let keys = AccessKeys::open_or_create(&dir.credentials()).unwrap();
        let config = Config::read(&Layers::defaults()).unwrap();

        let stopped = variables(&dir, &config).unwrap();
        assert_eq!(stopped[0].1, "http://127.0.0.1:9170");
        assert_eq!(stopped[1].1, keys.first().id());

        let _published = dir.publish_endpoint("http://127.0.0.1:4242").unwrap();
        assert_eq!(variables(&dir, &config).unwrap()[0].1, "http://127.0.0.1:4242");
    }
}
