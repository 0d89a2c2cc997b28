//! Of several settings the one that did best.

use loadtest::rounds::median;

use crate::{load::Load, rounds::Round};

/// The measurement of a peer, or of ours, whose median is best; and the setting that it was taken with.
pub(crate) struct Best<'a, S> {
    pub(crate) setting: S,
    pub(crate) loads: Vec<&'a Load>,
}

/// Of the settings that count the one with the highest median rate.
pub(crate) fn best<'a, S: Copy>(
    rounds: &'a [Round],
    settings: &[S],
    counts: impl Fn(&S) -> bool,
    of: impl Fn(&'a Round) -> &'a [Load],
) -> Option<Best<'a, S>> {
    let of = &of;
    let each = settings.iter().enumerate().filter(|(_, setting)| counts(setting)).map(|(at, &setting)| {
        let loads: Vec<&Load> = rounds.iter().filter_map(|round| of(round).get(at)).collect();
        Best { setting, loads }
    });
    each.filter(|best| !best.loads.is_empty())
        .max_by(|a, b| median(&a.values(Load::rate)).total_cmp(&median(&b.values(Load::rate))))
}

impl<S> Best<'_, S> {
    pub(crate) fn values(&self, of: impl Fn(&Load) -> f64) -> Vec<f64> {
        self.loads.iter().map(|load| of(load)).collect()
    }
}
