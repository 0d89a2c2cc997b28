//! One trace in both of its forms.

/// The W3C form of an X-Ray trace header; of a malformed one, a trace that nobody follows.
///
/// ```text
///   Root=1-<8 hex>-<24 hex>;Parent=<16 hex>;Sampled=<0|1>   ─►   00-<32 hex>-<16 hex>-<01 | 00>
/// ```
pub(crate) fn traceparent(xray: &str) -> String {
    let field = |name: &str| {
        let mut fields = xray.split(';').filter_map(|field| field.trim().split_once('='));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let id = field("Root").and_then(|root| root.strip_prefix("1-")).map(|root| root.replacen('-', "", 1));
    let id = id.filter(|id| id.len() == 32).unwrap_or_else(|| "0".repeat(32));
    let parent = field("Parent").filter(|parent| parent.len() == 16).unwrap_or("0000000000000000");
    let sampled = if field("Sampled") == Some("1") { "01" } else { "00" };
    format!("00-{id}-{parent}-{sampled}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_same_trace() {
        assert_eq!(
            traceparent("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"),
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"
        );
        assert_eq!(traceparent("nonsense"), "00-00000000000000000000000000000000-0000000000000000-00");
    }
}
