use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn context(purpose: &str) -> KeyContext {
    KeyContext { arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(), purpose: purpose.into() }
}

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("keys/keyring")
    }

    fn open(&self) -> LocalKeyring {
        LocalKeyring::open_or_create(&self.path()).unwrap()
    }
}

#[test]
fn a_wrap_opens_under_its_own_context_only_and_in_a_later_process() {
    let fixture = Fixture::new();
    let (key, wrapped) = fixture.open().generate(&context("code/1")).unwrap();
    let later = fixture.open();
    assert_eq!(later.unwrap(&wrapped, &context("code/1")).unwrap().expose(), key.expose());
    assert!(matches!(later.unwrap(&wrapped, &context("code/2")), Err(KeyError::WrongContext { .. })));
    let moved =
        KeyContext { arn: "arn:aws:lambda:us-east-1:000000000000:function:g".into(), ..context("code/1") };
    assert!(matches!(later.unwrap(&wrapped, &moved), Err(KeyError::WrongContext { .. })));
}

#[test]
fn parts_of_a_context_cannot_be_shifted_into_each_other() {
    let fixture = Fixture::new();
    let keyring = fixture.open();
    let (_, wrapped) = keyring.generate(&KeyContext { arn: "ab".into(), purpose: "c".into() }).unwrap();
    assert!(keyring.unwrap(&wrapped, &KeyContext { arn: "a".into(), purpose: "bc".into() }).is_err());
}

#[test]
fn every_altered_byte_of_a_wrap_is_found() {
    let fixture = Fixture::new();
    let keyring = fixture.open();
    let (_, wrapped) = keyring.generate(&context("code/1")).unwrap();
    assert_eq!(wrapped.0.len(), WRAP_LEN);
    for at in 0..WRAP_LEN {
        let mut altered = wrapped.clone();
        altered.0[at] ^= 0x80;
        assert!(keyring.unwrap(&altered, &context("code/1")).is_err(), "byte {at}");
        altered.0.truncate(at);
        assert!(keyring.unwrap(&altered, &context("code/1")).is_err(), "cut at {at}");
    }
}

#[test]
fn a_wrap_keeps_its_bytes_on_disk() {
    let id = WrappingKeyId(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
    let wrap =
        wrap_with(id, &DataKey::new([1; 32]), &DataKey::new([2; 32]), &context("code/1"), [3; NONCE_LEN]);
    assert_eq!(
        hex::encode(wrap.0),
        "5757574b0100112233445566778899aabbccddeeff030303030303030303030303fa631698fd86356baffee465ce1b26aaba\
         31a34f85cdc0b0ae12bf44a84884714ac9fa5d96a1346f4bc71b0fd26dcd3f"
    );
}

#[test]
fn after_a_rotation_old_wraps_open_until_their_key_is_destroyed() {
    let fixture = Fixture::new();
    let keyring = fixture.open();
    let old = keyring.current();
    let (key, wrapped) = keyring.generate(&context("code/1")).unwrap();
    let new = keyring.rotate().unwrap();
    assert_ne!(old, new);
    assert_eq!(keyring.unwrap(&wrapped, &context("code/1")).unwrap().expose(), key.expose());

    let rewrapped = keyring.rewrap(&wrapped, &context("code/1")).unwrap();
    assert!(matches!(keyring.destroy(new), Err(KeyringError::StillCurrent(_))));
    keyring.destroy(old).unwrap();
    assert!(
        matches!(keyring.unwrap(&wrapped, &context("code/1")), Err(KeyError::UnknownKey(id)) if id == old.to_string())
    );
    assert_eq!(keyring.unwrap(&rewrapped, &context("code/1")).unwrap().expose(), key.expose());
    assert_eq!(fixture.open().ids(), vec![new]);
    assert!(matches!(keyring.destroy(old), Err(KeyringError::Unknown(_))));
}

#[test]
fn a_rotation_by_another_process_is_noticed() {
    let fixture = Fixture::new();
    let server = fixture.open();
    let command = fixture.open();
    let (_, by_server) = server.generate(&context("code/1")).unwrap();
    command.rotate().unwrap();
    let (key, by_command) = command.generate(&context("code/2")).unwrap();
    assert_eq!(server.unwrap(&by_command, &context("code/2")).unwrap().expose(), key.expose());
    // The other way: nothing the server adds is lost to a change made from an older view.
    server.rotate().unwrap();
    command.rotate().unwrap();
    assert_eq!(fixture.open().ids().len(), 4);
    assert!(command.unwrap(&by_server, &context("code/1")).is_ok());
}

#[test]
fn a_ring_others_can_read_is_refused_with_the_remedy() {
    let fixture = Fixture::new();
    fixture.open();
    let path = fixture.path();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    assert!(LocalKeyring::open(&path).unwrap_err().to_string().contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o750)).unwrap();
    assert!(LocalKeyring::open_or_create(&path).unwrap_err().to_string().contains("chmod 700"));
}

#[test]
fn a_ring_of_another_format_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    fixture.open();
    let id = Uuid::from_u128(1);
    let key = "00".repeat(32);
    for text in [
        String::new(),
        "waterwheel-keyring 2\n".into(),
        format!("{FIRST_LINE}\n"),
        format!("{FIRST_LINE}\ncurrent {id}\n"),
        format!("{FIRST_LINE}\ncurrent {id}\nkey {id} 00\n"),
        format!("{FIRST_LINE}\ncurrent {id}\nkey {id} {key}\nkey {id} {key}\n"),
        format!("{FIRST_LINE}\ncurrent {id}\nkey {id} {key}\nmore\n"),
    ] {
        fs::write(fixture.path(), &text).unwrap();
        assert!(
            matches!(LocalKeyring::open_or_create(&fixture.path()), Err(KeyringError::Malformed { .. })),
            "{text}"
        );
        assert_eq!(fs::read_to_string(fixture.path()).unwrap(), text);
    }
}

#[test]
fn opening_for_reading_makes_nothing() {
    let fixture = Fixture::new();
    assert!(matches!(LocalKeyring::open(&fixture.path()), Err(KeyringError::Missing(_))));
    assert_eq!(fs::read_dir(fixture.directory.path()).unwrap().count(), 0);
}

#[test]
fn nothing_secret_is_printed() {
    let fixture = Fixture::new();
    let keyring = fixture.open();
    let text = fs::read_to_string(fixture.path()).unwrap();
    let digits = text.split_whitespace().last().unwrap();
    assert!(!format!("{keyring:?}").contains(digits));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_survives_its_file(keys in prop::collection::btree_map(any::<u128>(), any::<[u8; 32]>(), 1..8), pick in any::<prop::sample::Index>()) {
        let keys: BTreeMap<_, _> =
            keys.into_iter().map(|(id, key)| (WrappingKeyId(Uuid::from_u128(id)), DataKey::new(key))).collect();
        let current = *keys.keys().nth(pick.index(keys.len())).unwrap();
        let parsed = parse(&print(&Ring { current, keys: keys.clone() })).unwrap();
        prop_assert_eq!(parsed.current, current);
        prop_assert!(parsed.keys == keys);
    }
}
