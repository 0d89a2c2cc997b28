//! A million hostile executions against the disk. See `hostile` for what is counted.

mod driver;
mod hostile;

use std::{fs::File, io::Write};

use driver::Driver;
use hostile::{HEADERS, Random, Target};
use vmm::{
    rate_limiter::Limits,
    virtio::{Block, Device},
};

struct Disk(File);

impl Target for Disk {
    const NAME: &'static str = "block";
    const EPISODE: u64 = 5_000;

    fn device(&mut self, _: &mut Random) -> Box<dyn Device> {
        Box::new(Block::new(self.0.try_clone().unwrap(), Limits::default()).unwrap())
    }

    fn queues(&self) -> &'static [usize] {
        &[0]
    }

    fn request(&mut self, _: usize, random: &mut Random, driver: &Driver) -> Vec<(u64, u32, bool)> {
        let kind = random.pick(&[0, 0, 0, 0, 1, 4, 8, 11, random.clone().next() as u32]);
        let sector = if random.once_in(8) { random.number() } else { random.below(2100) };
        let header = HEADERS + random.below(64) * 64;
        driver.put(header, &kind.to_le_bytes());
        driver.put(header + 8, &sector.to_le_bytes());
        let mut buffers = vec![(header, 16, false)];
        for _ in 0..random.below(5) {
            let length = 512 * (random.below(16) as u32 + 1);
            buffers.push((HEADERS + 0x2_0000 + random.below(0x60_0000), length, true));
        }
        buffers.push((HEADERS + 0x1000, 1, true));
        buffers
    }
}

#[test]
fn a_million_hostile_calls() {
    let mut image = tempfile::tempfile().unwrap();
    image.write_all(&[0x5a; (1 << 20) + 700]).unwrap();
    hostile::run(Disk(image));
}
