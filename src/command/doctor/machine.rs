//! Runtimes and the tools that build them, ports, time.

use std::{net::TcpListener, path::Path, process::Command};

use image::RuntimeCatalog;

use super::Finding;
use crate::config::Config;

pub(super) fn examine(runtimes: &Path, config: &Config) -> [Finding; 4] {
    [find_runtimes(&RuntimeCatalog::open(runtimes)), build_tools(), port(config), time()]
}

fn find_runtimes(catalog: &RuntimeCatalog) -> Finding {
    const TOPIC: &str = "runtimes";
    let installed = catalog.list();
    if installed.is_empty() {
        let fact = format!("none in {}", catalog.dir().display());
        return Finding::warn(TOPIC, fact, "no function can be created; run: waterwheel runtimes build");
    }
    let names = |current| {
        let chosen = installed.iter().filter(move |runtime| runtime.current == current);
        chosen.map(|runtime| runtime.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let fact = format!("{} installed in {}", installed.len(), catalog.dir().display());
    let outdated = names(false);
    if outdated.is_empty() {
        Finding::ok(TOPIC, fact, format!("functions can be created for {}", names(true)))
    } else {
        Finding::warn(TOPIC, fact, format!("{outdated}: not of this version; run: waterwheel runtimes build"))
    }
}

fn build_tools() -> Finding {
    const TOPIC: &str = "build tools";
    match image::check_tools() {
        Ok(()) => Finding::ok(TOPIC, "mmdebstrap and pip are there", "runtimes can be built here"),
        Err(error) => Finding::warn(
            TOPIC,
            error.to_string(),
            "runtimes cannot be built here; those already built work without it",
        ),
    }
}

/// Whether `serve` could take its address now.
fn port(config: &Config) -> Finding {
    const TOPIC: &str = "port";
    let listen = config.server.listen;
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok(TOPIC, format!("{listen} is free"), "the server can listen there"),
        Err(error) => Finding::warn(
            TOPIC,
            format!("{listen}: {error}"),
            "a server may be running there already; else choose another with server.listen or --listen",
        ),
    }
}

fn time() -> Finding {
    let answer = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    let text =
        answer.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    judge_time(&text)
}

fn judge_time(synchronised: &str) -> Finding {
    const TOPIC: &str = "time";
    const MEANING: &str =
        "signatures more than 5 minutes off are refused; make sure that clients and server agree";
    match synchronised {
        "yes" => Finding::ok(TOPIC, "synchronised", "signed requests will not be refused for their time"),
        "no" => Finding::warn(TOPIC, "not synchronised", MEANING),
        _ => Finding::warn(TOPIC, "whether it is synchronised cannot be told (no timedatectl)", MEANING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{command::doctor::Mark, config::Layers};

    #[test]
    fn an_empty_directory_says_how_to_build_runtimes() {
        let dir = tempfile::tempdir().unwrap();
        let finding = find_runtimes(&RuntimeCatalog::open(dir.path()));
        assert_eq!(finding.mark, Mark::Warn);
        assert!(finding.meaning.ends_with("run: waterwheel runtimes build"), "{finding:?}");
    }

    #[test]
    fn a_taken_port_is_found_by_trying() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::read(&Layers::defaults()).unwrap();
        config.server.listen = taken.local_addr().unwrap();
        assert_eq!(port(&config).mark, Mark::Warn);
        drop(taken);
        assert_eq!(port(&config).mark, Mark::Ok);
    }

    #[test]
    fn unknown_time_is_not_called_synchronised() {
        assert_eq!(judge_time("yes").mark, Mark::Ok);
        assert_eq!(judge_time("no").mark, Mark::Warn);
        assert_eq!(judge_time("").mark, Mark::Warn);
    }
}
