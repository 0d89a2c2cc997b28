//! What every [`MetadataStore`] must do. Each implementation's tests call [`run`].

use proptest::{strategy::Strategy, strategy::ValueTree, test_runner::TestRunner};

use super::{MetadataStore, StoreError};
use crate::record::{FunctionRecord, tests::records};

/// Checks the contract. `open` opens the same, at first empty, storage each time; the store before is closed by then.
pub(crate) fn run(open: &mut dyn FnMut() -> Box<dyn MetadataStore>) {
    let store = open();
    assert_eq!(store.load().unwrap(), vec![]);
    let [mut b, a] = ["b", "a"].map(record);
    store.insert(&b).unwrap();
    store.insert(&a).unwrap();
    assert!(matches!(store.insert(&b), Err(StoreError::AlreadyExists(arn)) if arn == b.arn));
    assert_eq!(store.load().unwrap(), [a.clone(), b.clone()], "in the order of their ARNs");
    drop(store);

    let store = open();
    assert_eq!(store.load().unwrap(), [a.clone(), b.clone()], "durable");
    let first = b.revision;
    b.revision = uuid::Uuid::from_u128(2);
    b.tags.insert("changed".into(), "yes".into());
    store.update(&b, first).unwrap();
    assert!(
        matches!(store.update(&b, first), Err(StoreError::Conflict { expected, .. }) if expected == first)
    );
    assert!(matches!(store.update(&record("c"), first), Err(StoreError::Conflict { .. })));
    assert!(matches!(store.remove(&b.arn, first), Err(StoreError::Conflict { .. })));
    assert_eq!(store.load().unwrap(), [a.clone(), b.clone()], "what was refused changed nothing");
    drop(store);

    let store = open();
    assert_eq!(store.load().unwrap(), [a.clone(), b.clone()]);
    store.remove(&a.arn, a.revision).unwrap();
    assert!(matches!(store.remove(&a.arn, a.revision), Err(StoreError::Conflict { .. })));
    drop(store);

    let store = open();
    assert_eq!(store.load().unwrap(), [b.clone()]);
    one_of_many_racing_updates_wins(&*store, &b);
}

fn one_of_many_racing_updates_wins(store: &dyn MetadataStore, record: &FunctionRecord) {
    let wins = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8_u128)
            .map(|racer| {
                let mut next = record.clone();
                next.revision = uuid::Uuid::from_u128(100 + racer);
                scope.spawn(move || store.update(&next, record.revision).is_ok())
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(wins, 1);
}

fn record(name: &str) -> FunctionRecord {
    let mut record = records().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    record.arn.name = name.parse().unwrap();
    record.revision = uuid::Uuid::from_u128(1);
    record
}
