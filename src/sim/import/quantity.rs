//! Kubernetes quantities: whether a text is one that a resource can have.

/// Digits of a number that no sum of 128 bits can overflow with, whatever its suffix.
const LONGEST: usize = 18;

/// `0.5`, `250m`, `2Gi`, `1e3`; not below zero, since no resource is.
pub(super) fn is_quantity(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let is_number = number.len() <= LONGEST
        && number.bytes().any(|byte| byte.is_ascii_digit())
        && number.bytes().filter(|byte| *byte == b'.').count() <= 1;
    is_number && is_suffix(suffix)
}

fn is_suffix(suffix: &str) -> bool {
    const SUFFIXES: [&str; 16] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if SUFFIXES.contains(&suffix) {
        return true;
    }
    let Some(exponent) = suffix.strip_prefix(['e', 'E']) else {
        return false;
    };
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    (1..=2).contains(&exponent.len()) && exponent.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::is_quantity;

    #[test]
    fn knows_what_kubernetes_takes() {
        for text in
            ["0", "4", "0.5", ".5", "1.", "250m", "2Gi", "1.5Gi", "128974848", "129e6", "1E3", "5E", "12e-3"]
        {
            assert!(is_quantity(text), "{text}");
        }
        for text in [
            "",
            "Gi",
            "2Gx",
            "2 Gi",
            "2GiB",
            "-1",
            "1..2",
            "1e",
            "1e+",
            "1e999",
            "two",
            "0x10",
            "1,5",
            "1e3Ki",
            "9999999999999999999Ti",
        ] {
            assert!(!is_quantity(text), "{text}");
        }
    }
}
