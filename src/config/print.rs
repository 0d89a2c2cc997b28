//! The configuration as a commented file.

use super::{Layers, TEMPLATE};

/// `default.toml` with the values that are in force. A line whose value is not the default says who set it.
pub(crate) fn print(layers: &Layers) -> String {
    let mut section = "";
    let mut text = String::with_capacity(TEMPLATE.len());
    for line in TEMPLATE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        match line.split_once(" = ") {
            Some((key, _)) if !line.starts_with('#') => match layers.decided_by(section, key) {
                Some(source) => {
                    let (_, value) = layers.find(section, key);
                    text.push_str(&format!("{key} = {value} # from {source}"));
                }
                None => text.push_str(line),
            },
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_printed_reads_back_as_what_is_in_force() {
        assert_eq!(print(&Layers::defaults()), TEMPLATE);

        let mut layers = Layers::defaults();
        let path = "a \"b\".toml".as_ref();
        layers
            .add_file(path, "[runtimes]\ndir = '/a\\b \"c\"'\n[environments]\nconcurrency_limit = 3")
            .unwrap();
        layers.add_flag("server", "listen", "--listen".into(), "[::1]:0".into());
        let printed = print(&layers);
        assert!(printed.contains("listen = \"[::1]:0\" # from --listen"), "{printed}");

        let mut reread = Layers::defaults();
        reread.add_file("printed".as_ref(), &printed).unwrap();
        assert_eq!(Config::read(&reread).unwrap(), Config::read(&layers).unwrap());
    }

    #[test]
    fn every_key_is_documented() {
        let mut documented = false;
        for line in TEMPLATE.lines() {
            let is_key = line.contains(" = ") && !line.starts_with('#');
            let shares_the_one_above = line.starts_with("tls_key");
            assert!(!is_key || documented || shares_the_one_above, "no comment above {line}");
            documented = line.starts_with('#');
        }
    }
}
