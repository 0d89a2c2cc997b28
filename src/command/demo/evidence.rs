//! Where the judge's evidence comes from: the file that OnSuccess names, read as anybody could, and the dead-letter store.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use anyhow::Context as _;
use serde_json::Value;

use super::judge::{Judge, Order};
use crate::command::client::{Client, encoded};

/// Dead letters of one request.
const PAGE: usize = 1000;

pub(super) struct Evidence {
    function: &'static str,
    records: PathBuf,
    /// How far the file was read: to the end of its last whole line.
    read: u64,
    /// Numbers of request ids.
    numbers: HashMap<String, u32>,
}

impl Evidence {
    pub(super) fn new(function: &'static str, records: PathBuf) -> Self {
        Self { function, records, read: 0, numbers: HashMap::new() }
    }

    /// The number that was answered 202 with this request id.
    pub(super) fn promised(&mut self, request_id: String, number: u32) {
        self.numbers.insert(request_id, number);
    }

    /// Tells the judge what is new in the file.
    pub(super) fn look_at_records(&mut self, judge: &mut Judge) -> anyhow::Result<()> {
        let lines = self.new_lines().with_context(|| format!("cannot read {}", self.records.display()))?;
        judge.records(&lines);
        Ok(())
    }

    /// Tells the judge what is in the dead-letter store. Of which number a dead letter is, its request id says, and its payload if the
    /// id was given to nobody: the answer with it was lost.
    pub(super) async fn look_at_dead_letters(
        &mut self,
        client: &Client,
        judge: &mut Judge,
    ) -> anyhow::Result<()> {
        let mut numbers = Vec::new();
        for id in self.dead_letters(client).await? {
            let number = match self.numbers.get(&id) {
                Some(number) => *number,
                None => self.number_in_payload(client, &id).await?,
            };
            self.numbers.insert(id, number);
            numbers.push(number);
        }
        judge.dead_letters(numbers);
        Ok(())
    }

    /// Believes no request id any more: the next look reads the payload of each dead letter.
    pub(super) fn forget_promises(&mut self) {
        self.numbers.clear();
    }

    /// Request ids, the oldest first.
    pub(super) async fn dead_letters(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let first = format!("dead-letters?FunctionName={}&MaxItems={PAGE}", self.function);
        let (mut ids, mut path) = (Vec::new(), Some(first.clone()));
        while let Some(asked) = path {
            let answer = client.get(&asked).await?;
            let page = answer["DeadLetters"].as_array().context("the list of dead letters is none")?;
            for letter in page {
                let id = letter["RequestId"].as_str();
                ids.push(id.with_context(|| format!("an unreadable dead letter: {letter}"))?.to_owned());
            }
            path = answer["NextMarker"].as_str().map(|marker| format!("{first}&Marker={}", encoded(marker)));
        }
        Ok(ids)
    }

    async fn number_in_payload(&self, client: &Client, id: &str) -> anyhow::Result<u32> {
        let path = format!("functions/{}/dead-letters/{}?Payload=true", self.function, encoded(id));
        let Value::String(payload) = client.get(&path).await?["Payload"].take() else {
            anyhow::bail!("the dead letter {id} has no payload");
        };
        let order: Order = serde_json::from_str(&payload).context("a dead letter is no order")?;
        Ok(order.order)
    }

    fn new_lines(&mut self) -> io::Result<Vec<u8>> {
        let mut file = match File::open(&self.records) {
            Ok(file) => file,
            // Nothing has succeeded yet.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        bytes.truncate(whole);
        self.read += whole as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn a_line_is_read_once_and_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let mut evidence = Evidence::new("f", path.clone());
        assert_eq!(evidence.new_lines().unwrap(), b"");
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(evidence.new_lines().unwrap(), b"one\n");
        assert_eq!(evidence.new_lines().unwrap(), b"");
        File::options().append(true).open(&path).unwrap().write_all(b"o\nthree\n").unwrap();
        assert_eq!(evidence.new_lines().unwrap(), b"two\nthree\n");
    }
}
