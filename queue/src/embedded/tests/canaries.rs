//! Nothing readable at rest: canaries in payloads and attributes, and data keys, looked for in every byte that was ever written,
//! also to files that are deleted, renamed or written over by now.
//!
//! What may be read: names of partitions and functions, event ids, times, sizes, positions of sources (`queue/FORMAT.md`).

use std::{collections::HashSet, sync::Mutex, time::Duration};

use types::{DataKey, KeyContext, KeyError, Keys, WrappedDataKey};

use super::rig::{Random, Rig, TestKeys, now, request};
use crate::{
    Event, EventId, Queue,
    clock::Clocks,
    embedded::{Config, EmbeddedQueue},
    partition::Order,
};

const CANARY_BYTES: usize = 24;
/// So much of a canary in a row is no accident: 2⁻⁶⁴ for each place.
const SEEN: usize = 8;
const LEASE: Duration = Duration::from_secs(60);

/// Keys that look like no other bytes, and are remembered.
#[derive(Debug, Default)]
struct CanaryKeys {
    wraps: TestKeys,
    keys: Mutex<Vec<DataKey>>,
}

impl Keys for CanaryKeys {
    fn generate(&self, context: &KeyContext) -> Result<(DataKey, WrappedDataKey), KeyError> {
        let (_, wrapped) = self.wraps.generate(context)?;
        let mut keys = self.keys.lock().unwrap();
        let mut random = Random(0xCA_0A_57 + keys.len() as u64);
        let key = DataKey::new(std::array::from_fn(|_| random.next() as u8));
        keys.push(key.clone());
        Ok((key, wrapped))
    }

    fn unwrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<DataKey, KeyError> {
        self.wraps.unwrap(wrapped, context)?;
        let number = u64::from_le_bytes(wrapped.0[..8].try_into().unwrap());
        Ok(self.keys.lock().unwrap()[number as usize].clone())
    }

    fn rewrap(&self, wrapped: &WrappedDataKey, context: &KeyContext) -> Result<WrappedDataKey, KeyError> {
        self.wraps.rewrap(wrapped, context)
    }
}

/// All forms in which a secret could be there: as it is, backwards, hexadecimal, base64 at each of its three alignments.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec(), secret.iter().rev().copied().collect()];
    forms.push(hex::encode(secret).into_bytes());
    forms.push(hex::encode_upper(secret).into_bytes());
    for alphabet in [&b"+/"[..], &b"-_"[..]] {
        forms.extend((0..3).map(|skip| base64(&secret[skip..], alphabet)));
    }
    forms
}

fn base64(bytes: &[u8], last: &[u8]) -> Vec<u8> {
    let alphabet =
        [&(b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').collect::<Vec<u8>>()[..], last].concat();
    let groups = bytes.chunks_exact(3).flat_map(|three| {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| bits >> shift & 63)
    });
    groups.map(|sextet| alphabet[sextet]).collect()
}

/// Every so many bytes in a row of any form.
fn windows(secrets: &[Vec<u8>]) -> HashSet<[u8; SEEN]> {
    let forms = secrets.iter().flat_map(|secret| forms(secret));
    forms
        .flat_map(|form| form.windows(SEEN).map(|window| window.try_into().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn seen(secrets: &HashSet<[u8; SEEN]>, written: &[Vec<u8>]) -> u64 {
    let places = written.iter().flat_map(|bytes| bytes.windows(SEEN));
    places.filter(|window| secrets.contains(*window)).count() as u64
}

fn canary(number: u64) -> Vec<u8> {
    let mut random = Random(number ^ 0xCA_7A_47);
    (0..CANARY_BYTES).map(|_| random.next() as u8).collect()
}

#[test]
fn nothing_that_was_ever_written_can_be_read() {
    let rig = Rig::new();
    rig.disk.remember();
    let keys = std::sync::Arc::new(CanaryKeys::default());
    let mut random = Random(1);
    let mut number = 0;
    for _ in 0..6 {
        let config = Config { segment_bytes: rig.segment_bytes, ..Config::new("/nowhere".into()) };
        let clocks = Clocks { wall: rig.clock.clone(), boot: rig.clock.clone() };
        let (queue, _) =
            EmbeddedQueue::open_on(config, Box::new(rig.disk.clone()), keys.clone(), clocks).unwrap();
        let partitions = [("canary-partition", Order::None), ("lane", Order::Strict)];
        let partitions = partitions.map(|(name, order)| queue.partition(name, order).unwrap());
        let functions = [0, 1].map(|at| queue.function(&format!("arn:f{at}")).unwrap());
        for _ in 0..200 {
            let secret = canary(number);
            let payload = secret.repeat(1 + random.below(40) as usize);
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            number += 1;
            let function = functions[random.below(2) as usize];
            let partition = partitions[random.below(8) as usize / 7];
            let event =
                Event { id: EventId(id), function, partition, attributes: &secret, payload: &payload };
            now(queue.enqueue(&[event])).unwrap();
            let _ = now(queue.upkeep().step());
        }
        // Most are done, so that segments go; the few that are not are moved.
        let exclude = HashSet::new();
        let (epoch, leased) = now(queue.lease(request(partitions[0], 1000, LEASE, &exclude))).unwrap();
        let done: Vec<_> = leased.iter().filter(|event| event.id.0[7] % 16 > 0).collect();
        let tokens: Vec<_> = done.iter().map(|event| (event.token, event.id)).collect();
        now(queue.ack(epoch, &tokens)).unwrap();
        now(queue.rewrap(functions[0])).unwrap();
        while now(queue.upkeep().step()).unwrap() {}
        now(queue.purge(functions[1])).unwrap();
        while now(queue.upkeep().step()).unwrap() {}
        drop(queue);
        rig.disk.crash(&mut |bound| random.below(bound));
    }
    let written = rig.disk.remembered();
    let mut secrets: Vec<Vec<u8>> = (0..number).map(canary).collect();
    secrets.extend(keys.keys.lock().unwrap().iter().map(|key| key.expose().to_vec()));
    let bytes: usize = written.iter().map(Vec::len).sum();
    assert_eq!(seen(&windows(&secrets), &written), 0, "a canary was seen");
    // The same eyes see what may be seen.
    assert!(seen(&windows(&[b"canary-partition".to_vec()]), &written) > 0);
    for form in forms(&canary(0)) {
        assert!(seen(&windows(&[canary(0)]), &[form]) > 0);
    }
    println!("queue: {number} canaries, {bytes} bytes ever written: 0 seen");
}

#[test]
fn nothing_is_compressed_so_sizes_tell_nothing_of_content() {
    let sizes = [vec![0; 4096], canary(0).repeat(200)[..4096].to_vec()].map(|payload| {
        let rig = Rig::new();
        let queue = rig.open();
        let function = queue.function("arn:f").unwrap();
        let partition = queue.partition("p", Order::None).unwrap();
        let id = EventId([1; 16]);
        now(queue.enqueue(&[Event { id, function, partition, attributes: &[], payload: &payload }])).unwrap();
        queue.depth(partition).bytes
    });
    assert_eq!(sizes[0], sizes[1]);
    assert!(sizes[0] > 4096);
}
