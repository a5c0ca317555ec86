//! Names and numbers that follow from a seed alone, the same in every build and every replay.

/// Five letters that follow from `seed` alone, for names that must be the same in every replay.
pub(in crate::sim) fn suffix(seed: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = hash(seed);
    (0..5)
        .map(|_| {
            let index = usize::try_from(rest % LETTERS.len() as u64).unwrap_or(0);
            rest /= LETTERS.len() as u64;
            LETTERS.get(index).map_or('x', |letter| char::from(*letter))
        })
        .collect()
}

/// A number that follows from `seed` alone: FNV-1a, the same in every build, with its bits mixed.
pub(in crate::sim) fn hash(seed: &str) -> u64 {
    hash_of(&[seed])
}

/// Whether these are the 16 hexadecimal digits of a number.
pub(in crate::sim) fn is_hex(digits: &str, number: u64) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.len() == 16 && digits.bytes().all(is_digit) && u64::from_str_radix(digits, 16) == Ok(number)
}

/// The number that follows from these one after the other, without the text that they make together.
pub(in crate::sim) fn hash_of(seed: &[&str]) -> u64 {
    let bytes = seed.iter().flat_map(|part| part.bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

/// A uid that follows from `seed` alone, shaped as Kubernetes shapes them.
pub(in crate::sim) fn uid_from(seed: &str) -> String {
    let (high, low) = (hash(seed), hash(&format!("{seed}#")));
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{:04x}-{:012x}", 0x8000 | (low >> 50), low & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_every_build() {
        assert_eq!((suffix("a").as_str(), hash("a")), ("brb7j", 13_561_939_348_052_093_883));
        assert_eq!(uid_from("a").len(), 36);
        assert_eq!(hash_of(&["node", " ", "1"]), hash("node 1"));
        assert!(is_hex("00000000000000af", 0xaf) && is_hex(&format!("{:016x}", u64::MAX), u64::MAX));
        assert!(
            !is_hex("00000000000000AF", 0xaf) && !is_hex("af", 0xaf) && !is_hex("00000000000000ae", 0xaf)
        );
    }
}
