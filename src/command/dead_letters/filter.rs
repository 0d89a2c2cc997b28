//! Which dead letters are meant, beside whose they are.

use clap::Args;

use super::moment;

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only those given up for this reason
    #[arg(long)]
    reason: Option<String>,
    /// Only those given up at this time or later
    #[arg(long, value_name = "TIME", value_parser = moment)]
    after: Option<String>,
    /// Only those given up before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<String>,
}

impl Filter {
    /// By the names that the server has for them.
    pub(super) fn members(&self) -> [(&'static str, Option<&str>); 3] {
        let Self { reason, after, before } = self;
        [("Reason", reason.as_deref()), ("After", after.as_deref()), ("Before", before.as_deref())]
    }
}
