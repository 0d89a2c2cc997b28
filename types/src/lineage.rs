//! How often each function was invoked in a chain of invocations: the `Lineage` field of the X-Ray trace header.
//!
//! ```text
//!   Root=1-…;Parent=…;Sampled=0;Lineage=a87bd80c:1|68fd508a:5|c512fbe3:2
//!                                       │        └ times that it was invoked, this one included
//!                                       └ first half of a hash of the function's ARN, 8 hexadecimal digits
//! ```
//! A function whose SDK passes the header on, as AWS's do, carries it to what it invokes. The form is the one of the X-Ray developer
//! guide, "Tracing header"; which hash AWS takes is not documented.

use std::{fmt, str::FromStr};

use crate::{FunctionArn, stable_hash};

/// Functions of a chain that are remembered; of a longer one, the latest.
const FUNCTIONS: usize = 32;

/// The functions of a chain, in the order in which each was first invoked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage(Vec<(u32, u32)>);

impl Lineage {
    /// The function is invoked once more; how often that makes.
    pub fn add(&mut self, function: &FunctionArn) -> u32 {
        let hash = hash(function);
        if let Some((_, times)) = self.0.iter_mut().find(|(known, _)| *known == hash) {
            *times = times.saturating_add(1);
            return *times;
        }
        if self.0.len() == FUNCTIONS {
            self.0.remove(0);
        }
        self.0.push((hash, 1));
        1
    }

    /// How often the function was invoked in the chain.
    #[must_use]
    pub fn times(&self, function: &FunctionArn) -> u32 {
        let hash = hash(function);
        self.0.iter().find(|(known, _)| *known == hash).map_or(0, |(_, times)| *times)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn hash(function: &FunctionArn) -> u32 {
    let hash = stable_hash(function.to_string().as_bytes());
    (hash ^ (hash >> 32)) as u32
}

impl FromStr for Lineage {
    type Err = std::convert::Infallible;

    /// What is malformed is left out: a header is what anybody may send.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = |entry: &str| {
            let (hash, times) = entry.split_once(':')?;
            let hash = (hash.len() == 8).then(|| u32::from_str_radix(hash, 16).ok())??;
            Some((hash, times.parse().ok()?))
        };
        Ok(Self(text.split('|').filter_map(entry).take(FUNCTIONS).collect()))
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (hash, times)) in self.0.iter().enumerate() {
            write!(f, "{}{hash:08x}:{times}", if index == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(name: &str) -> FunctionArn {
        let (region, account) = ("us-east-1".parse().unwrap(), "123456789012".parse().unwrap());
        FunctionArn { region, account, name: name.parse().unwrap() }
    }

    #[test]
    fn invocations_are_counted_over_any_number_of_hops() {
        let mut text = String::new();
        for n in 1..=20 {
            let mut lineage: Lineage = text.parse().unwrap();
            assert_eq!((lineage.add(&arn("f")), lineage.add(&arn("g"))), (n, n));
            text = lineage.to_string();
        }
        let lineage: Lineage = text.parse().unwrap();
        assert_eq!((lineage.times(&arn("f")), lineage.times(&arn("h"))), (20, 0));
        assert_eq!(text.len(), 2 * "a87bd80c:20".len() + 1);
    }

    #[test]
    fn what_anybody_may_send_is_bounded() {
        let mut lineage: Lineage = "a87bd80c:1|x|:|12:3|a87bd80:1|68fd508a:-5|c512fbe3:2".parse().unwrap();
        assert_eq!(lineage.to_string(), "a87bd80c:1|c512fbe3:2");
        (0..100).for_each(|n| assert_eq!(lineage.add(&arn(&format!("f{n}"))), 1));
        assert_eq!(lineage.times(&arn("f99")), 1);
        assert!(lineage.to_string().len() < 600);
        assert!("".parse::<Lineage>().unwrap().is_empty());
    }
}
