//! Which package archives the root file systems come from: those this machine already uses for Debian.
//!
//! A machine behind a mirror or a cache has that written in its own apt configuration; using the same entries means
//! that a build works wherever `apt-get install` works. Entries of other vendors, and suites of other releases, are left
//! out: a runtime holds Debian's packages only.

use std::{fs, path::Path};

/// Entries of `etc_apt` (normally `/etc/apt`) that carry Debian's `suite`, as one deb822 text for mmdebstrap.
/// `None` if there is no such entry; mmdebstrap then uses its own default.
pub(crate) fn debian_sources(etc_apt: &Path, suite: &str) -> Option<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut entries = Vec::new();
    for file in files {
        // Unreadable entries are apt's own business to complain about.
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(text.lines().filter_map(Entry::from_line)),
            Some("sources") => entries.extend(text.split("\n\n").filter_map(Entry::from_stanza)),
            _ => {}
        }
    }
    entries.retain_mut(|entry| entry.keep_only(suite));
    // Updates alone do not make a system.
    let whole = entries.iter().any(|entry| entry.suites.iter().any(|s| s == suite));
    whole.then(|| entries.iter().map(Entry::to_stanza).collect())
}

#[derive(Debug, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Entry {
    /// `deb [options] uri suite component…`
    fn from_line(line: &str) -> Option<Self> {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let mut entry = Self::default();
        if let Some(options) = rest.strip_prefix('[') {
            let (options, after) = options.split_once(']')?;
            entry.signed_by = options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="))
                .map(str::to_owned);
            rest = after;
        }
        let mut parts = rest.split_whitespace().map(str::to_owned);
        entry.uris = vec![parts.next()?];
        entry.suites = vec![parts.next()?];
        entry.components = parts.collect();
        Some(entry)
    }

    /// One paragraph of a `.sources` file.
    fn from_stanza(stanza: &str) -> Option<Self> {
        let mut entry = Self::default();
        let mut binary = false;
        let mut lines = stanza.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            let Some((field, value)) = line.split_once(':') else {
                continue;
            };
            let mut value = value.trim().to_owned();
            while let Some(more) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
                value.push('\n');
                value.push_str(more);
            }
            match field.to_ascii_lowercase().as_str() {
                "types" => binary = words(&value).iter().any(|kind| kind == "deb"),
                "uris" => entry.uris = words(&value),
                "suites" => entry.suites = words(&value),
                "components" => entry.components = words(&value),
                "signed-by" => entry.signed_by = Some(value),
                "enabled" if value.eq_ignore_ascii_case("no") => return None,
                _ => {}
            }
        }
        (binary && !entry.uris.is_empty()).then_some(entry)
    }

    /// Narrows the entry to `suite`, its updates and its security fixes; false if nothing of Debian's is left.
    fn keep_only(&mut self, suite: &str) -> bool {
        let wanted = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
        self.suites.retain(|have| wanted.iter().any(|want| have.trim_end_matches('/') == want));
        self.components.retain(|component| component == "main");
        self.uris.retain(|uri| !uri.starts_with("cdrom:"));
        // A third party that also calls its suite after the release signs with a key of its own.
        let debian = self.signed_by.as_ref().is_none_or(|key| key.contains("debian-archive"));
        debian && !self.suites.is_empty() && !self.components.is_empty() && !self.uris.is_empty()
    }

    fn to_stanza(&self) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" "),
        );
        if let Some(key) = &self.signed_by {
            text.push_str(&format!("Signed-By: {key}\n"));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        debian_sources(dir.path(), "bookworm")
    }

    #[test]
    fn the_machines_own_mirror_is_used_and_other_vendors_are_left_out() {
        let text = sources(&[
            (
                "sources.list.d/debian.sources",
                "# a comment\nTypes: deb deb-src\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main contrib\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                 Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n",
            ),
            ("sources.list.d/vendor.list", "deb [signed-by=/etc/vendor.gpg] http://vendor.test bookworm main\n"),
            ("sources.list.d/cloud.list", "deb http://vendor.test cloud-bookworm main\n"),
            ("sources.list.d/old.list.save", "deb http://saved.test bookworm main\n"),
        ])
        .unwrap();
        assert!(text.contains(
            "URIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
        ));
        assert!(text.contains("URIs: http://mirror.test/security\nSuites: bookworm-security\n"));
        assert!(!text.contains("vendor") && !text.contains("saved") && !text.contains("contrib"), "{text}");
    }

    #[test]
    fn one_line_entries_are_understood_with_options_and_comments() {
        let text = sources(&[(
            "sources.list",
            "deb-src http://mirror.test/debian bookworm main\n# deb http://no.test bookworm main\n\
             deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg]  http://mirror.test/debian bookworm main # end\n",
        )])
        .unwrap();
        assert_eq!(
            text,
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\nComponents: main\n\
             Signed-By: /k/debian-archive-keyring.gpg\n\n"
        );
    }

    #[test]
    fn without_the_release_itself_there_is_nothing_to_use() {
        assert_eq!(sources(&[("sources.list", "deb http://mirror.test/debian trixie main\n")]), None);
        assert_eq!(
            sources(&[("sources.list", "deb http://mirror.test/debian bookworm-updates main\n")]),
            None
        );
        let disabled = "Enabled: no\nTypes: deb\nURIs: http://m.test\nSuites: bookworm\nComponents: main\n";
        assert_eq!(sources(&[("sources.list.d/d.sources", disabled)]), None);
    }
}
