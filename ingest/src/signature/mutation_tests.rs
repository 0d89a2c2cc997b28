//! A valid request, bent at random in everything its signature covers.

use super::{
    canonical,
    tests::{AT, Draft, check, scope},
};

/// xorshift64*: enough to choose mutations, and the same ones every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    /// Another visible letter at a random place, which changes what the text means.
    fn bend(&mut self, text: &mut String) {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        let letter = char::from(LETTERS[self.below(LETTERS.len())]);
        let at = self.below(text.len() + 1);
        match (self.below(3), text.is_empty()) {
            (0, _) | (_, true) => text.insert(at, letter),
            (1, false) => drop(text.remove(at.min(text.len() - 1))),
            _ => {
                let at = at.min(text.len() - 1);
                text.replace_range(at..=at, letter.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

/// Bends one signed part of a valid request at random; none where it came out as it was.
fn mutant(valid: &Draft, dice: &mut Dice) -> Option<Draft> {
    let mut draft = valid.clone();
    match dice.below(8) {
        0 => dice.bend(&mut draft.method),
        1 => dice.bend(&mut draft.target),
        2 => {
            let index = dice.below(draft.headers.len());
            dice.bend(&mut draft.headers[index].1);
        }
        3 => {
            let at = dice.below(draft.body.len());
            draft.body[at] ^= 1 << dice.below(8);
        }
        4 => dice.bend(&mut draft.date),
        5 => dice.bend(&mut draft.signature),
        6 => {
            let index = dice.below(draft.signed.len());
            dice.bend(&mut draft.signed[index]);
        }
        _ => {
            draft.headers.swap_remove(dice.below(draft.headers.len()));
        }
    }
    let same = draft.method == valid.method
        && draft.target == valid.target
        && draft.headers == valid.headers
        && draft.body == valid.body
        && draft.date == valid.date
        && draft.signature == valid.signature
        && draft.signed == valid.signed;
    (!same && !only_padding(valid, &draft)).then_some(draft)
}

/// A path that resolves, or a query that decodes, to the same request: `//` for `/`, an empty pair.
fn only_padding(valid: &Draft, bent: &Draft) -> bool {
    let canonical = |draft: &Draft| {
        draft.parts().and_then(|parts| canonical::request_without_payload(&parts, &draft.signed))
    };
    bent.target != valid.target && canonical(valid) == canonical(bent)
}

#[test]
fn of_a_hundred_thousand_mutations_none_is_accepted() {
    let valid = Draft::new();
    assert!(valid.check_at(AT).is_ok());
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut tried = 0;
    while tried < 100_000 {
        let Some(draft) = mutant(&valid, &mut dice) else {
            continue;
        };
        tried += 1;
        // What cannot even be written as a request is refused before it gets here.
        let Some(parts) = draft.parts() else { continue };
        let verdict = check(&parts, &scope("lambda"), AT, &draft.body);
        assert!(
            verdict.is_err(),
            "accepted: {} {} {:?} {:?}",
            draft.method,
            draft.target,
            draft.headers,
            draft.signed
        );
    }
}
