//! The configuration: one TOML file, overridable by environment and flags.
//!
//! ```text
//!   flags ─────────┐
//!   WATERWHEEL_*  ─┤  layers, strongest first; each is a
//!   the file ──────┤  table [section] → key → value          ──► Reader ──► Config (typed, checked)
//!   default.toml ──┘
//! ```
//!
//! `default.toml` is the single list of keys: it documents them, gives their defaults, and is what `waterwheel config
//! print` writes. A key that it does not name is refused in every layer; a key that [`Config`] does not read fails a test.

mod events;
mod layers;
mod microvm;
mod print;
mod value;

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use types::{AccountId, Region};

use events::{Destinations, Events, Queue};
pub(crate) use layers::{ConfigError, Layers};
pub(crate) use microvm::Microvm;
pub(crate) use print::print;
use value::{ByteSize, Optional};
pub(crate) use value::{EXPECTED_DURATION, parse_duration};

/// Every key with its documentation and its default.
pub(crate) const TEMPLATE: &str = include_str!("default.toml");

/// What `serve` and its siblings run with. Each field is a key of `default.toml`, which says what it means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) account: Account,
    pub(crate) environments: Environments,
    pub(crate) microvm: Microvm,
    pub(crate) queue: Queue,
    pub(crate) events: Events,
    pub(crate) destinations: Destinations,
    pub(crate) runtimes: Runtimes,
    pub(crate) logs: Logs,
    pub(crate) telemetry: Telemetry,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Certificate chain and private key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) auth: Auth,
    pub(crate) max_connections: usize,
    pub(crate) max_inflight_bytes: u64,
    pub(crate) drain_timeout: Duration,
}

/// Whether requests must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Required,
    Disabled,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    pub(crate) region: Region,
}

/// Where environments may have their user ids from: above the system's and people's, with room below the end of the signed
/// range, where some programs stop.
pub(crate) const UID_BASES: RangeInclusive<u32> = 65_536..=2_000_000_000;

/// What stands between a function and this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    Auto,
    Microvm,
    Process,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Environments {
    pub(crate) isolation: Isolation,
    /// 0: three quarters of the machine's.
    pub(crate) max_memory_mb: u32,
    pub(crate) code_memory: u64,
    pub(crate) capacity_wait: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) init_timeout: Duration,
    pub(crate) prepared_jails: usize,
    pub(crate) setup_timeout: Duration,
    pub(crate) concurrency_limit: u32,
    pub(crate) uid_base: u32,
    pub(crate) cgroup: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Runtimes {
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logs {
    pub(crate) bytes_per_function: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Telemetry {
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) service_name: String,
}

// === impl Config ===

impl Config {
    /// Reads and checks every key.
    pub(crate) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let config = Self {
            server: Server::read(layers)?,
            account: Account { id: layers.get("account", "id")?, region: layers.get("account", "region")? },
            environments: Environments::read(layers)?,
            microvm: Microvm::read(layers)?,
            queue: Queue::read(layers)?,
            events: Events::read(layers)?,
            destinations: Destinations::read(layers)?,
            runtimes: Runtimes { dir: layers.get::<Optional<PathBuf>>("runtimes", "dir")?.0 },
            logs: Logs { bytes_per_function: layers.get::<ByteSize>("logs", "bytes_per_function")?.0 },
            telemetry: Telemetry::read(layers)?,
        };
        Ok(config)
    }
}

// === impl Server ===

impl Server {
    fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let get_path = |key| Ok::<_, ConfigError>(layers.get::<Optional<PathBuf>>("server", key)?.0);
        let tls = match (get_path("tls_cert")?, get_path("tls_key")?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(layers.refuse("server", "tls_key", "the private key of server.tls_cert"));
            }
            (None, Some(_)) => {
                return Err(layers.refuse("server", "tls_cert", "the certificate chain of server.tls_key"));
            }
        };
        let server = Self {
            listen: layers.get("server", "listen")?,
            metrics_listen: layers.get::<Optional<SocketAddr>>("server", "metrics_listen")?.0,
            tls,
            auth: layers.get("server", "auth")?,
            max_connections: layers.at_least("server", "max_connections", 1)?,
            max_inflight_bytes: layers.get::<ByteSize>("server", "max_inflight_bytes")?.0,
            drain_timeout: layers.get("server", "drain_timeout")?,
        };
        let exposed = !server.listen.ip().is_loopback();
        if server.auth == Auth::Disabled && exposed {
            let expected = format!(
                "\"required\" while server.listen is {}, which others can reach (or a loopback address there)",
                server.listen
            );
            return Err(layers.refuse("server", "auth", expected));
        }
        Ok(server)
    }
}

// === impl Environments ===

impl Environments {
    fn read(layers: &Layers) -> Result<Self, ConfigError> {
        Ok(Self {
            isolation: layers.get("environments", "isolation")?,
            max_memory_mb: layers.get("environments", "max_memory_mb")?,
            code_memory: layers.get::<ByteSize>("environments", "code_memory")?.0,
            capacity_wait: layers.get("environments", "capacity_wait")?,
            idle_timeout: layers.get("environments", "idle_timeout")?,
            init_timeout: layers.get("environments", "init_timeout")?,
            prepared_jails: layers.get("environments", "prepared_jails")?,
            setup_timeout: layers.get("environments", "setup_timeout")?,
            concurrency_limit: layers.at_least("environments", "concurrency_limit", 1)?,
            uid_base: Self::read_uid_base(layers)?,
            cgroup: Self::read_cgroup(layers)?,
        })
    }

    fn read_uid_base(layers: &Layers) -> Result<u32, ConfigError> {
        let base: u32 = layers.get("environments", "uid_base")?;
        if !UID_BASES.contains(&base) {
            let expected = format!("{} to {}", UID_BASES.start(), UID_BASES.end());
            return Err(layers.refuse("environments", "uid_base", expected));
        }
        Ok(base)
    }

    fn read_cgroup(layers: &Layers) -> Result<String, ConfigError> {
        let name: String = layers.get("environments", "cgroup")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(layers.refuse(
                "environments",
                "cgroup",
                "a name of letters, digits, hyphens, underscores",
            ));
        }
        Ok(name)
    }
}

// === impl Telemetry ===

impl Telemetry {
    fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let endpoint = layers.get::<Optional<String>>("telemetry", "otlp_endpoint")?.0;
        if let Some(url) = &endpoint
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            let expected = "an http:// or https:// URL such as \"http://127.0.0.1:4318\"";
            return Err(layers.refuse("telemetry", "otlp_endpoint", expected));
        }
        Ok(Self { otlp_endpoint: endpoint, service_name: layers.get("telemetry", "service_name")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&str, &str, &str)],
    ) -> Result<Config, String> {
        let mut layers = Layers::defaults();
        let layered = layers.add_file("w.toml".as_ref(), file).and_then(|()| {
            layers.add_environment(environment.iter().map(|(k, v)| (k.to_string(), v.to_string())))
        });
        layered.map_err(|error| error.to_string())?;
        for (section, key, text) in flags {
            layers.add_flag(section, key, format!("--{key}"), (*text).to_owned());
        }
        Config::read(&layers).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_whole_and_every_documented_key_is_read() {
        let layers = Layers::defaults();
        Config::read(&layers).unwrap();
        assert_eq!(layers.unread(), Vec::<String>::new(), "keys of default.toml that Config does not read");
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file =
            "[server]\nlisten = \"127.0.0.1:1\"\nmax_connections = 7\n[account]\nregion = \"eu-west-1\"";
        let environment =
            [("WATERWHEEL_SERVER__LISTEN", "127.0.0.1:2"), ("WATERWHEEL_SERVER__MAX_CONNECTIONS", "8")];
        let flags = [("server", "listen", "127.0.0.1:3")];
        let config = read(file, &environment, &flags).unwrap();
        assert_eq!(config.server.listen, "127.0.0.1:3".parse().unwrap());
        assert_eq!(config.server.max_connections, 8);
        assert_eq!(config.account.region.as_str(), "eu-west-1");
        assert_eq!(config.account.id.as_str(), "000000000000");
    }

    #[test]
    fn an_error_names_source_key_value_and_what_is_expected() {
        let cases = [
            (
                "[server]\ndrain_timeout = \"soon\"",
                "w.toml: server.drain_timeout = \"soon\": expected a duration such as \"10s\", \"500ms\" or \"5m\"",
            ),
            (
                "[server]\nmax_inflight_bytes = 12",
                "w.toml: server.max_inflight_bytes = 12: expected a size such as \"64MiB\" or \"512KiB\"",
            ),
            ("[server]\nmax_connections = 0", "w.toml: server.max_connections = 0: expected 1 or more"),
            ("[account]\nid = \"42\"", "w.toml: account.id = \"42\": expected a twelve-digit account"),
            (
                "[environments]\nisolation = \"vm\"",
                "w.toml: environments.isolation = \"vm\": expected \"auto\", \"microvm\" or \"process\"",
            ),
            (
                "[environments]\nuid_base = 0",
                "w.toml: environments.uid_base = 0: expected 65536 to 2000000000",
            ),
            (
                "[telemetry]\notlp_endpoint = \"localhost:4317\"",
                "w.toml: telemetry.otlp_endpoint = \"localhost:4317\": \
                 expected an http:// or https:// URL such as \"http://127.0.0.1:4318\"",
            ),
            (
                "[destinations]\nendpoint = \"http://\"",
                "w.toml: destinations.endpoint = \"http://\": \
                 expected an http:// or https:// URL such as \"http://127.0.0.1:4566\"",
            ),
            (
                "[destinations]\ntimeout = \"999ms\"",
                "w.toml: destinations.timeout = \"999ms\": expected \"1s\" or more",
            ),
            (
                "[server]\ntls_cert = \"/c.pem\"",
                "the default: server.tls_key = \"\": expected the private key of server.tls_cert",
            ),
        ];
        for (file, expected) in cases {
            assert_eq!(read(file, &[], &[]).unwrap_err(), expected);
        }
    }

    #[test]
    fn unknown_keys_and_sections_are_refused_and_the_near_ones_named() {
        assert_eq!(
            read("[server]\nlisen = \"x\"", &[], &[]).unwrap_err(),
            "w.toml: unknown key server.lisen; did you mean server.listen? (`waterwheel config print` lists every key)"
        );
        assert_eq!(
            read("[sever]", &[], &[]).unwrap_err(),
            "w.toml: unknown section [sever]; did you mean [server]? (`waterwheel config print` lists every key)"
        );
        assert_eq!(
            read("", &[("WATERWHEEL_LOGS__ZZZZZZZZ", "1")], &[]).unwrap_err(),
            "environment variable WATERWHEEL_LOGS__ZZZZZZZZ: unknown key logs.zzzzzzzz \
             (`waterwheel config print` lists every key)"
        );
    }

    #[test]
    fn bad_toml_is_refused_with_its_line() {
        let error = read("[server]\nlisten = ", &[], &[]).unwrap_err();
        assert!(error.starts_with("w.toml: not valid TOML: ") && error.contains("line 2"), "{error}");
        let error = read("server = 1", &[], &[]).unwrap_err();
        assert_eq!(error, "w.toml: server = 1: expected a section [server]");
    }

    #[test]
    fn an_open_port_without_signatures_is_refused() {
        let error = read("[server]\nauth = \"disabled\"\nlisten = \"0.0.0.0:80\"", &[], &[]).unwrap_err();
        assert!(
            error.contains(
                "server.auth = \"disabled\": expected \"required\" while server.listen is 0.0.0.0:80"
            )
        );
        assert_eq!(read("[server]\nauth = \"disabled\"", &[], &[]).unwrap().server.auth, Auth::Disabled);
    }

    #[test]
    fn the_environment_gives_numbers_as_text_and_its_errors_name_the_variable() {
        let error = read("", &[("WATERWHEEL_SERVER__MAX_CONNECTIONS", "many")], &[]).unwrap_err();
        assert_eq!(
            error,
            "environment variable WATERWHEEL_SERVER__MAX_CONNECTIONS: server.max_connections = \"many\": \
             expected a whole number"
        );
        read("", &[("WATERWHEEL_DATA_DIR", "/x"), ("WATERWHEEL", ""), ("PATH", "x")], &[]).unwrap();
    }
}
