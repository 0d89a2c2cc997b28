//! How much waits, and since when.

use std::time::Duration;

use super::Shared;
use crate::{FunctionStat, PartitionNumber, ReadError, entry::StreamKey};

impl Shared {
    pub(super) fn stat(&self, partition: PartitionNumber) -> Result<Vec<FunctionStat>, ReadError> {
        let depths: Vec<_> = self.state().log.depths(partition).collect();
        let mut stats = Vec::with_capacity(depths.len());
        for (key, depth) in depths.into_iter().filter(|(_, depth)| depth.events > 0) {
            // 0 is the number of no function.
            let function = Some(key.function).filter(|function| function.0 != 0);
            stats.push(FunctionStat { function, depth, oldest: self.oldest(key)? });
        }
        Ok(stats)
    }

    fn oldest(&self, key: StreamKey) -> Result<Option<Duration>, ReadError> {
        loop {
            let mut state = self.state();
            match state.log.oldest(key) {
                Ok(millis) => return Ok(millis.map(Duration::from_millis)),
                Err(load) if state.log.load_from_memory(load) => {}
                Err(load) => {
                    drop(state);
                    self.load(load)?;
                }
            }
        }
    }
}
