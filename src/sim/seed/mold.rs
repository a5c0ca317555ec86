//! A shape that many values share: cast once from a sample, then filled with the words that differ from one value to the
//! next. Knows nothing of what the words mean; whatever of a sample is no word, and has none in it, is the same in all.

use serde_json::{Map, Value};

/// The shape of a value.
#[derive(Debug)]
pub(super) enum Mold {
    /// No word is in it.
    Fixed(Value),
    Text(Text),
    List(Vec<Self>),
    Fields(Vec<(Text, Self)>),
}

/// A text, taken apart at the words in it.
#[derive(Debug)]
pub(super) struct Text(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Fixed(String),
    /// The word of this number.
    Word(usize),
}

impl Mold {
    /// The shape of a sample in which these words stand for those to come. Where several match, the longest does.
    pub(super) fn of(sample: Value, words: &[&str]) -> Self {
        match sample {
            Value::String(text) => match Text::of(&text, words) {
                found if found.has_words() => Self::Text(found),
                _ => Self::Fixed(Value::String(text)),
            },
            Value::Array(items) => {
                let items: Vec<Self> = items.into_iter().map(|item| Self::of(item, words)).collect();
                Self::List(items).settled()
            }
            Value::Object(fields) => {
                let fields =
                    fields.into_iter().map(|(key, value)| (Text::of(&key, words), Self::of(value, words)));
                Self::Fields(fields.collect()).settled()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Self::Fixed(sample),
        }
    }

    /// In one piece where there is no word in it.
    fn settled(self) -> Self {
        let is_fixed = match &self {
            Self::Fixed(_) => true,
            Self::Text(text) => !text.has_words(),
            Self::List(items) => items.iter().all(|item| matches!(item, Self::Fixed(_))),
            Self::Fields(fields) => {
                fields.iter().all(|(key, value)| !key.has_words() && matches!(value, Self::Fixed(_)))
            }
        };
        if is_fixed { Self::Fixed(self.into_value()) } else { self }
    }

    /// The value of a mold without words.
    fn into_value(self) -> Value {
        match self {
            Self::Fixed(value) => value,
            Self::Text(text) => Value::String(text.fill(&[])),
            Self::List(items) => Value::Array(items.into_iter().map(Self::into_value).collect()),
            Self::Fields(fields) => Value::Object(
                fields.into_iter().map(|(key, value)| (key.fill(&[]), value.into_value())).collect(),
            ),
        }
    }

    /// The value with these words.
    pub(super) fn fill(&self, words: &[&str]) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(text) => Value::String(text.fill(words)),
            Self::List(items) => Value::Array(items.iter().map(|item| item.fill(words)).collect()),
            Self::Fields(fields) => Value::Object(
                fields.iter().map(|(key, value)| (key.fill(words), value.fill(words))).collect::<Map<_, _>>(),
            ),
        }
    }
}

impl Text {
    fn of(text: &str, words: &[&str]) -> Self {
        let mut pieces = Vec::new();
        let (mut rest, mut at) = (text, 0);
        while let Some(first) = rest.as_bytes().get(at) {
            let begins = |word: &str| word.as_bytes().first() == Some(first);
            let behind = rest.get(at..).unwrap_or_default();
            let here =
                words.iter().enumerate().filter(|(_, word)| begins(word) && behind.starts_with(**word));
            let Some((number, word)) = here.max_by_key(|(_, word)| word.len()) else {
                at += 1;
                continue;
            };
            if at > 0 {
                pieces.push(Piece::Fixed(rest.get(..at).unwrap_or_default().to_owned()));
            }
            pieces.push(Piece::Word(number));
            rest = behind.get(word.len()..).unwrap_or_default();
            at = 0;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Fixed(rest.to_owned()));
        }
        Self(pieces)
    }

    fn fill(&self, words: &[&str]) -> String {
        let parts = || {
            self.0.iter().map(|piece| match piece {
                Piece::Fixed(text) => text.as_str(),
                Piece::Word(number) => words.get(*number).copied().unwrap_or_default(),
            })
        };
        let mut text = String::with_capacity(parts().map(str::len).sum());
        parts().for_each(|part| text.push_str(part));
        text
    }

    fn has_words(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Word(_)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn puts_words_where_the_sample_had_its_own_keys_too() {
        let sample = json!({"a": [1, "-vmx-", {"vmx-long": "vmx"}], "b": {"same": true}});
        let mold = Mold::of(sample.clone(), &["vmx", "vmx-long"]);
        let filled = mold.fill(&["one", "two"]);
        assert_eq!(filled, json!({"a": [1, "-one-", {"two": "one"}], "b": {"same": true}}));
        assert_eq!(mold.fill(&["vmx", "vmx-long"]), sample);
    }
}
