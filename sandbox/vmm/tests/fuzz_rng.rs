//! A million hostile executions against the source of randomness. See `hostile` for what is counted.

mod driver;
mod hostile;

use driver::Driver;
use hostile::{HEADERS, Random, Target};
use vmm::{
    rate_limiter::Limits,
    virtio::{Device, Rng},
};

struct Source;

impl Target for Source {
    const NAME: &'static str = "rng";
    const EPISODE: u64 = 5_000;

    fn device(&mut self, _: &mut Random) -> Box<dyn Device> {
        Box::new(Rng::new(Limits::default()).unwrap())
    }

    fn queues(&self) -> &'static [usize] {
        &[0]
    }

    fn request(&mut self, _: usize, random: &mut Random, _: &Driver) -> Vec<(u64, u32, bool)> {
        (0..=random.below(3))
            .map(|_| (HEADERS + random.below(0x1_0000), random.below(600) as u32, true))
            .collect()
    }
}

#[test]
fn a_million_hostile_calls() {
    hostile::run(Source);
}
