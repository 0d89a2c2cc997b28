//! Names of functions: ARNs, partial ARNs and plain names, as the API accepts them.

use std::{fmt, str::FromStr};

use crate::Version;

/// Longest plain function name (developer guide; the service model allows the 140 of a full ARN).
const NAME_MAX: usize = 64;
/// Longest alias or qualifier (service model).
const QUALIFIER_MAX: usize = 128;

/// A twelve-digit account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(String);

/// A region, such as `us-east-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(String);

/// A function's plain name: 1–64 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionName(String);

/// What stands behind a function's name: a version or an alias.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qualifier {
    Version(Version),
    Alias(String),
}

/// `arn:aws:lambda:<region>:<account>:function:<name>`, without a qualifier.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionArn {
    pub region: Region,
    pub account: AccountId,
    pub name: FunctionName,
}

/// A function as a caller named it: plain name, partial ARN or full ARN, each with or without a qualifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRef {
    /// Absent where the caller gave no region.
    pub region: Option<Region>,
    /// Absent where the caller gave no account.
    pub account: Option<AccountId>,
    pub name: FunctionName,
    pub qualifier: Option<Qualifier>,
}

/// Why a name, ARN or qualifier was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {expected}")]
pub struct ParseReferenceError {
    pub value: String,
    pub expected: &'static str,
}

fn refuse(value: &str, expected: &'static str) -> ParseReferenceError {
    ParseReferenceError { value: value.to_owned(), expected }
}

fn is_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text!(AccountId);
text!(Region);
text!(FunctionName);

// === impl AccountId ===

impl FromStr for AccountId {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        valid.then(|| Self(text.to_owned())).ok_or_else(|| refuse(text, "twelve-digit account"))
    }
}

// === impl Region ===

impl FromStr for Region {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Two letters, words, a digit: `eu-central-1`, `us-gov-west-1`, `eusc-de-east-1`.
        let parts: Vec<&str> = text.split('-').collect();
        let number = parts.last().is_some_and(|p| p.len() == 1 && p.as_bytes()[0].is_ascii_digit());
        let words = parts.len() >= 3
            && parts[..parts.len() - 1]
                .iter()
                .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase()));
        (number && words)
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| refuse(text, "region such as us-east-1"))
    }
}

// === impl FunctionName ===

impl FromStr for FunctionName {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        is_name(text, NAME_MAX)
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| refuse(text, "function name (1 to 64 letters, digits, hyphens, underscores)"))
    }
}

// === impl Qualifier ===

impl FromStr for Qualifier {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "$LATEST" {
            return Ok(Self::Version(Version::Latest));
        }
        if !is_name(text, QUALIFIER_MAX) {
            return Err(refuse(text, "qualifier ($LATEST, a version number or an alias)"));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text
                .parse()
                .map(|number| Self::Version(Version::Number(number)))
                .map_err(|_| refuse(text, "version number"));
        }
        Ok(Self::Alias(text.to_owned()))
    }
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => version.fmt(f),
            Self::Alias(alias) => f.write_str(alias),
        }
    }
}

// === impl FunctionArn ===

impl fmt::Display for FunctionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:aws:lambda:{}:{}:function:{}", self.region, self.account, self.name)
    }
}

impl FunctionArn {
    /// The ARN with a qualifier behind it.
    #[must_use]
    pub fn qualified(&self, qualifier: &impl fmt::Display) -> String {
        format!("{self}:{qualifier}")
    }
}

// === impl FunctionRef ===

impl FunctionRef {
    /// The ARN without a qualifier; `None` if the caller gave no region or no account.
    #[must_use]
    pub fn into_arn(self) -> Option<FunctionArn> {
        Some(FunctionArn { region: self.region?, account: self.account?, name: self.name })
    }
}

impl FromStr for FunctionRef {
    type Err = ParseReferenceError;

    /// Accepts what the service model's `FunctionName` pattern accepts:
    /// `[arn:aws:lambda:][region:][account:][function:]name[:qualifier]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "function name or ARN";
        let mut rest: Vec<&str> = text.split(':').collect();
        rest.reverse();
        if rest.last() == Some(&"arn") {
            rest.pop();
            let partition = rest.pop().unwrap_or_default();
            if !partition.starts_with("aws") || rest.pop() != Some("lambda") {
                return Err(refuse(text, EXPECTED));
            }
        }
        // Each leading part is optional; it is taken as what its shape says, as the pattern does.
        let mut region = None;
        let mut account = None;
        if rest.len() > 1
            && let Some(parsed) = rest.last().and_then(|part| part.parse().ok())
        {
            region = Some(parsed);
            rest.pop();
        }
        if rest.len() > 1
            && let Some(parsed) = rest.last().and_then(|part| part.parse().ok())
        {
            account = Some(parsed);
            rest.pop();
        }
        if rest.len() > 1 && rest.last() == Some(&"function") {
            rest.pop();
        }
        let name = rest.pop().unwrap_or_default().parse()?;
        let qualifier = rest.pop().map(str::parse).transpose()?;
        if !rest.is_empty() {
            return Err(refuse(text, EXPECTED));
        }
        Ok(Self { region, account, name, qualifier })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_function_names_the_same_function() {
        for text in [
            "echo:$LATEST",
            "function:echo:$LATEST",
            "123456789012:function:echo:$LATEST",
            "123456789012:echo:$LATEST",
            "us-east-1:123456789012:function:echo:$LATEST",
            "arn:aws:lambda:us-east-1:123456789012:function:echo:$LATEST",
        ] {
            let parsed: FunctionRef = text.parse().unwrap();
            assert_eq!(parsed.name.as_str(), "echo", "{text}");
            assert_eq!(parsed.qualifier, Some(Qualifier::Version(Version::Latest)), "{text}");
        }
    }

    #[test]
    fn a_name_that_looks_like_a_part_stays_a_name_when_it_stands_alone() {
        for text in ["function", "123456789012", "us-east-1"] {
            let parsed: FunctionRef = text.parse().unwrap();
            assert_eq!(parsed.name.as_str(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_value_named() {
        for text in [
            "",
            "a b",
            "arn:aws:s3:::bucket",
            "arn:aws:lambda",
            "a:b:c:d:e",
            "x:bad qualifier",
            &"n".repeat(65),
        ] {
            assert!(text.parse::<FunctionRef>().is_err(), "{text}");
        }
        assert!("a b".parse::<FunctionName>().unwrap_err().to_string().contains("\"a b\""));
    }

    #[test]
    fn qualifiers_are_latest_numbers_or_aliases() {
        assert_eq!("7".parse(), Ok(Qualifier::Version(Version::Number(7))));
        assert_eq!("live".parse(), Ok(Qualifier::Alias("live".into())));
        assert!("99999999999999999999999999".parse::<Qualifier>().is_err());
    }

    #[test]
    fn an_arn_prints_as_the_api_spells_it() {
        let arn = FunctionArn {
            region: "eu-central-1".parse().unwrap(),
            account: "123456789012".parse().unwrap(),
            name: "echo".parse().unwrap(),
        };
        assert_eq!(
            arn.qualified(&Version::Number(3)),
            "arn:aws:lambda:eu-central-1:123456789012:function:echo:3"
        );
    }
}
