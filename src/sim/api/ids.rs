//! uids and random name endings that follow from a seed.

/// A stream of numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub(super) struct Ids {
    state: u64,
}

/// The letters that Kubernetes ends generated names with: none that forms a word or looks like another.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Ids {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Goes on as after a uid that nobody wants.
    pub(super) fn skip_uid(&mut self) {
        self.next();
        self.next();
    }

    /// A random uid (version 4).
    pub(super) fn uid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 50),
            low & 0xffff_ffff_ffff
        )
    }

    /// A name that begins like this and ends in five random letters; cut as the real server cuts it.
    pub(super) fn name(&mut self, prefix: &str) -> String {
        let mut name: String = prefix.chars().take(58).collect();
        let mut number = self.next();
        for _ in 0..5 {
            let letter = usize::try_from(number % 27).ok().and_then(|index| LETTERS.get(index));
            name.push(char::from(letter.copied().unwrap_or(b'b')));
            number /= 27;
        }
        name
    }
}
