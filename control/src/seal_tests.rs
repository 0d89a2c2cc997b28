use proptest::prelude::*;

use super::*;

const IDENTITY: ArtefactIdentity = ArtefactIdentity {
    id: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
    kind: ArtefactKind::Image,
};

fn key(byte: u8) -> DataKey {
    DataKey::new([byte; DataKey::LEN])
}

fn context(purpose: &str) -> KeyContext {
    KeyContext { arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(), purpose: purpose.into() }
}

fn sealed(identity: ArtefactIdentity, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    seal_artefact(&key(7), identity, plain, &mut out).unwrap();
    out
}

fn opened(identity: ArtefactIdentity, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut out = Vec::new();
    let length = open_artefact(&key(7), identity, sealed, &mut out)?;
    assert_eq!(length, out.len() as u64);
    Ok(out)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn a_sealed_value_keeps_its_bytes_on_disk() {
    let bytes = seal_value_with(&key(1), &context("environment/1"), b"variables", [9; NONCE_LEN]);
    assert_eq!(
        hex::encode(bytes),
        "5757535601090909090909090909090909b26e55a7af526aa40cac9c6248ed4c8b4948604337db863c32"
    );
}

#[test]
fn a_sealed_artefact_keeps_its_bytes_on_disk() {
    assert_eq!(
        hex::encode(sealed(IDENTITY, b"image")),
        "57575341010100000123456789abcdef0123456789abcdef000000000004000008b5c5d59e9148fed4260e91447d0a7c10b5ae83cd"
    );
}

#[test]
fn a_value_opens_only_with_its_own_key_and_context_and_unaltered() {
    let sealed = seal_value(&key(1), &context("environment/1"), b"variables").unwrap();
    assert_eq!(&**open_value(&key(1), &context("environment/1"), &sealed).unwrap(), b"variables");
    assert!(open_value(&key(2), &context("environment/1"), &sealed).is_err());
    assert!(open_value(&key(1), &context("environment/2"), &sealed).is_err());
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        assert!(open_value(&key(1), &context("environment/1"), &altered).is_err(), "byte {at}");
        assert!(open_value(&key(1), &context("environment/1"), &sealed[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn two_seals_of_one_value_differ() {
    let seal = || seal_value(&key(1), &context("environment/1"), b"variables").unwrap();
    assert_ne!(seal(), seal());
}

#[test]
fn artefacts_of_every_length_around_a_chunk_open_again() {
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
        let plain = pattern(length);
        let sealed = sealed(IDENTITY, &plain);
        assert_eq!(sealed.len(), ARTEFACT_HEADER + length + TAG * length.div_ceil(CHUNK).max(1));
        assert_eq!(opened(IDENTITY, &sealed).unwrap(), plain, "{length}");
    }
}

#[test]
fn an_artefact_cut_at_any_chunk_or_extended_is_refused() {
    let sealed = sealed(IDENTITY, &pattern(3 * CHUNK));
    for chunks in 0..3 {
        assert!(opened(IDENTITY, &sealed[..ARTEFACT_HEADER + chunks * (CHUNK + TAG)]).is_err(), "{chunks}");
    }
    let last = sealed[ARTEFACT_HEADER + 2 * (CHUNK + TAG)..].to_vec();
    assert!(opened(IDENTITY, &[sealed, last].concat()).is_err());
}

#[test]
fn swapped_and_repeated_chunks_are_refused() {
    let sealed = sealed(IDENTITY, &pattern(3 * CHUNK));
    let chunk =
        |n: usize| &sealed[ARTEFACT_HEADER + n * (CHUNK + TAG)..ARTEFACT_HEADER + (n + 1) * (CHUNK + TAG)];
    for order in [[1, 0, 2], [0, 0, 2], [0, 2, 1], [2, 1, 0]] {
        let mut forged = sealed[..ARTEFACT_HEADER].to_vec();
        order.iter().for_each(|n| forged.extend_from_slice(chunk(*n)));
        assert!(opened(IDENTITY, &forged).is_err(), "{order:?}");
    }
}

#[test]
fn an_artefact_is_not_taken_for_another_of_the_same_key() {
    let sealed = sealed(IDENTITY, b"image");
    let other_kind = ArtefactIdentity { kind: ArtefactKind::Zip, ..IDENTITY };
    let other_id = ArtefactIdentity { id: Uuid::from_u128(1), ..IDENTITY };
    for identity in [other_kind, other_id] {
        assert!(opened(identity, &sealed).is_err());
        // A header rewritten to match does not help: it is authenticated with every chunk.
        let forged = [&artefact_header(identity)[..], &sealed[ARTEFACT_HEADER..]].concat();
        assert!(matches!(opened(identity, &forged), Err(SealError::Damaged { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_flipped_bit_anywhere_is_found(length in 0..CHUNK + 100, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut altered = sealed(IDENTITY, &pattern(length));
        let at = at.index(altered.len());
        altered[at] ^= 1_u8 << bit;
        prop_assert!(opened(IDENTITY, &altered).is_err());
    }

    #[test]
    fn a_cut_anywhere_is_found(length in 0..CHUNK + 100, at in any::<prop::sample::Index>()) {
        let sealed = sealed(IDENTITY, &pattern(length));
        prop_assert!(opened(IDENTITY, &sealed[..at.index(sealed.len())]).is_err());
    }
}
