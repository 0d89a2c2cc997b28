//! `waterwheel serve`: makes the parts, connects them, and takes them down again in order.
//!
//! ```text
//!   before threads:  limits of this process · private mounts · telemetry
//!   start            keys ─► control plane (locks the data directory) ─► logs ─► environments ─► invoker ─► queue, fleet ─► edge
//!   ready            endpoint file, first-start words, READY to the service manager
//!   SIGTERM, SIGINT  edge and fleet: take nothing new, finish ─► invoker: stop environments ─► control settles ─► logs flushed
//!   a second signal  end at once; what is durable stays so, and environments die with this process
//! ```

mod events;
mod isolation;
mod process;
mod signals;
mod stack;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use sandbox::WorkerDirectory;

use self::{signals::Signals, stack::Stack};
use crate::{
    cli::{Global, RuntimesDir},
    config::{Config, Layers},
    data_dir::{DataDir, client_url},
    notify::{State, notify},
    telemetry::Telemetry,
};

/// Start the server
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waterwheel serve
  waterwheel serve --data-dir ./data --listen 127.0.0.1:0
  waterwheel serve --config waterwheel.toml --log-format json

SIGTERM and SIGINT let running invocations finish; a second one ends the server at once.")]
pub(crate) struct Arguments {
    /// Address of the Lambda API [default: server.listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Take requests without signatures; only on a loopback address
    #[arg(long)]
    no_auth: bool,
    /// What separates functions from this machine: auto, microvm or process [default: environments.isolation]
    #[arg(long, value_name = "KIND")]
    isolation: Option<String>,
    #[command(flatten)]
    runtimes_dir: RuntimesDir,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut layers = global.layers()?;
    arguments.add_to(&mut layers);
    let config = Config::read(&layers).context("cannot use the configuration")?;
    let data = DataDir::open_or_create(&global.data_dir)?;
    process::prepare().context("cannot set the limits of this process")?;
    // Before any thread: a mount namespace is that of the thread that asks for it, and of those started from it.
    let code = WorkerDirectory::prepare(&data.code(), config.environments.code_memory)
        .context("cannot prepare memory for functions' code")?;
    let telemetry = Telemetry::start(global, &config.telemetry)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let served = runtime.block_on(serve_until_stopped(&config, &data, &code, &telemetry));
    // Nothing that is left may hold the process: what had to be finished is.
    runtime.shutdown_background();
    telemetry.stop();
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve_until_stopped(
    config: &Config,
    data: &DataDir,
    code: &WorkerDirectory,
    telemetry: &Telemetry,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let upkeep = tokio::spawn(Telemetry::upkeep(telemetry.metrics()));
    let first_start = !data.credentials().exists();
    let stack = Stack::start(config, data, code, telemetry.metrics()).await?;
    let address = stack.address();
    let url = client_url(address, config.server.tls.is_some());
    let published = data.publish_endpoint(&url).context("cannot publish the endpoint")?;
    if first_start {
        print_first_steps(data, &url);
    }
    tracing::info!(%address, url, data = %data.path().display(), "ready");
    notify(State::Ready);

    let stop = tokio_util::sync::CancellationToken::new();
    let serving = stack.serve(stop.clone());
    tokio::pin!(serving);
    let signal = tokio::select! {
        () = &mut serving => anyhow::bail!("the server stopped although nobody asked it to"),
        signal = signals.next() => signal,
    };
    tracing::info!(signal, "stopping: running invocations finish first");
    notify(State::Stopping);
    // Whoever looks for the server from now on must not be sent here.
    drop(published);
    stop.cancel();
    tokio::select! {
        () = &mut serving => tracing::info!("stopped"),
        signal = signals.next() => anyhow::bail!("stopped at once by a second signal ({signal})"),
    }
    upkeep.abort();
    Ok(())
}

fn print_first_steps(data: &DataDir, url: &str) {
    let place = data.path().display();
    println!(
        "First start on {place}: made an access key ({place}/credentials) and a keyring ({place}/keyring).\n\
         Keep a copy of the keyring: without it nothing stored here can be read again.\n\
         The Lambda API is at {url}. To use it from a shell:\n\n  \
         eval \"$(waterwheel --data-dir {place} env)\"\n  aws lambda list-functions\n"
    );
}

// === impl Arguments ===

impl Arguments {
    fn add_to(&self, layers: &mut Layers) {
        if let Some(listen) = &self.listen {
            layers.add_flag("server", "listen", "--listen".into(), listen.clone());
        }
        if self.no_auth {
            layers.add_flag("server", "auth", "--no-auth".into(), "disabled".into());
        }
        if let Some(kind) = &self.isolation {
            layers.add_flag("environments", "isolation", "--isolation".into(), kind.clone());
        }
        self.runtimes_dir.add_to(layers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_auth_on_an_open_address_is_refused_by_its_flag() {
        let arguments = Arguments {
            listen: Some("0.0.0.0:1".into()),
            no_auth: true,
            isolation: None,
            runtimes_dir: RuntimesDir { runtimes_dir: None },
        };
        let mut layers = Layers::defaults();
        arguments.add_to(&mut layers);
        let error = Config::read(&layers).unwrap_err().to_string();
        assert!(error.starts_with("--no-auth: server.auth = \"disabled\": expected \"required\""), "{error}");
    }
}
