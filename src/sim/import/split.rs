//! A YAML stream to its documents. YAML allows `---` and `...` at the begin of a line nowhere but between documents, not
//! even within text, so lines are all one has to look at.

/// One document of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Its text, without the marks.
    pub(super) text: &'a str,
    /// Lines of the file before it.
    pub(super) lines_before: u32,
    /// A mark that says "the document ends here" follows.
    pub(super) is_ended: bool,
}

impl Piece<'_> {
    /// The line of the file on which something stands first.
    pub(super) fn first_line(&self) -> u32 {
        let lines = self.text.lines().zip(1..);
        let blank = lines.take_while(|(line, _)| is_blank(line)).map(|(_, number)| number).last();
        self.lines_before + 1 + blank.unwrap_or(0)
    }

    /// Nothing in it but comments and directives?
    pub(super) fn is_empty(&self) -> bool {
        self.text.lines().all(is_blank)
    }
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with(['#', '%'])
}

/// The documents, without what stands empty before the first `---` or after a `...`.
pub(super) fn documents(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut start, mut lines_before, mut was_opened) = (0, 0, false);
    let (mut at, mut line) = (0, 0);
    let mut push = |text, lines_before, is_ended, was_opened| {
        let piece = Piece { text, lines_before, is_ended };
        if was_opened || !piece.is_empty() {
            found.push(piece);
        }
    };
    for whole in text.split_inclusive('\n') {
        let mark = whole.get(..3).filter(|_| whole.get(3..).is_none_or(begins_blank));
        let opens = mark == Some("---");
        if opens || mark == Some("...") {
            push(text.get(start..at).unwrap_or_default(), lines_before, !opens, was_opened);
            start = at + 3;
            lines_before = line;
            was_opened = opens;
        }
        at += whole.len();
        line += 1;
    }
    push(text.get(start..).unwrap_or_default(), lines_before, false, was_opened);
    found
}

fn begins_blank(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(&str, u32, bool)> {
        documents(text).iter().map(|p| (p.text, p.lines_before, p.is_ended)).collect()
    }

    #[test]
    fn marks_part_documents() {
        assert_eq!(texts("a: 1\n"), [("a: 1\n", 0, false)]);
        assert_eq!(
            texts("# x\n---\na: 1\n---\r\nb: 1\n"),
            [("\na: 1\n", 1, false), ("\r\nb: 1\n", 3, false)]
        );
        assert_eq!(texts("a: 1\n...\n# end\n"), [("a: 1\n", 0, true)]);
        assert_eq!(texts("a: |\n  ---\nb: ----\n----: 1\n").len(), 1);
    }

    #[test]
    fn an_opened_document_counts_even_when_nothing_follows() {
        assert_eq!(texts("a: 1\n---\n"), [("a: 1\n", 0, false), ("\n", 1, false)]);
    }
}
