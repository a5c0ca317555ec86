//! Every path that a Rust source mentions, without a compiler: comments and literals skipped, `use` trees unfolded,
//! `super`, `self` and the crate's own name resolved to `crate`. Knows nothing about what is allowed.

use std::iter::Peekable;
use std::vec::IntoIter;

/// A path such as `crate::flow::plan`, and whether only tests see it.
pub(crate) struct Mention {
    /// The segments; a glob ends in `*`.
    pub(crate) path: Vec<String>,
    /// Inside a module called `tests`, in a file of that name or in its folder.
    pub(crate) in_test: bool,
}

/// All paths of `text`, the source of `module` (`["flow", "next"]`), in order.
pub(crate) fn mentions(module: &[String], text: &str) -> Vec<Mention> {
    let mut scan = Scan { module: module.to_vec(), open: Vec::new(), found: Vec::new() };
    scan.run(&mut words(text).into_iter().peekable());
    scan.found
}

struct Scan {
    module: Vec<String>,
    /// One entry per open brace: whether it began a module.
    open: Vec<bool>,
    found: Vec<Mention>,
}

type Words = Peekable<IntoIter<String>>;

impl Scan {
    fn run(&mut self, words: &mut Words) {
        while let Some(word) = words.next() {
            match word.as_str() {
                "{" => self.open.push(false),
                "}" if self.open.pop() == Some(true) => {
                    self.module.pop();
                }
                "mod" => {
                    let name = words.next().unwrap_or_default();
                    if words.next_if(|next| next == "{").is_some() {
                        self.module.push(name);
                        self.open.push(true);
                    }
                }
                // `impl Trait + use<'a>` names what a return type captures, no path.
                "use" if words.peek().is_some_and(|next| next != "<") => self.tree(Vec::new(), words),
                _ if is_name(&word) => {
                    let mut path = vec![word];
                    while words.next_if(|next| next == "::").is_some() {
                        match words.next_if(|next| is_name(next)) {
                            Some(next) => path.push(next),
                            None => break,
                        }
                    }
                    self.mention(path);
                }
                _ => {}
            }
        }
    }

    /// One `use` tree after `prefix`, up to and without its `,`, `}` or `;`.
    fn tree(&mut self, mut prefix: Vec<String>, words: &mut Words) {
        while let Some(word) = words.next_if(|next| ![",", "}", ";"].contains(&next.as_str())) {
            match word.as_str() {
                "::" => {}
                "as" => drop(words.next()),
                "self" if !prefix.is_empty() => {}
                "{" => {
                    while words.peek().is_some_and(|next| next != "}") {
                        self.tree(prefix.clone(), words);
                        if words.next_if(|next| next == ",").is_none() {
                            break;
                        }
                    }
                    words.next();
                    return;
                }
                _ => prefix.push(word),
            }
        }
        self.mention(prefix);
    }

    fn mention(&mut self, path: Vec<String>) {
        let in_test = self.module.iter().any(|part| part == "tests");
        let mut at = self.module.clone();
        let mut relative = false;
        let mut rest = path.into_iter().peekable();
        while let Some(step) =
            rest.next_if(|step| ["crate", "upgrade_agent", "super", "self"].contains(&step.as_str()))
        {
            match step.as_str() {
                "super" => drop(at.pop()),
                "self" => {}
                _ => at.clear(),
            }
            relative = true;
        }
        let root = relative.then(|| std::iter::once("crate".to_owned()).chain(at)).into_iter().flatten();
        let path: Vec<String> = root.chain(rest).collect();
        // A bare `self` or `super` (a receiver, `pub(super)`) names no room.
        if !path.is_empty() && path != ["crate"] {
            self.found.push(Mention { path, in_test });
        }
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single marks; comments, strings, characters, lifetimes and blanks dropped.
fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' {
            let mut after = rest.chars().skip(1);
            let (one, two) = (after.next(), after.next());
            // `'a'` and `'\n'` are characters, `'a` is a lifetime.
            if one == Some('\\') || two == Some('\'') { quoted(rest, '\'') } else { 1 }
        } else if is_name(rest) {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            // A leading `::` only says that a crate's name follows.
            found.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                found.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - inside.len() + inside.find(&end).map_or(inside.len(), |at| at + end.len()))
}

fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == mark {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}
