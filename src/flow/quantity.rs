//! Kubernetes quantities as whole thousandths of their unit: exact for what clusters use, and comparable.

/// `2Gi`, `1.5`, `250m`, `1e3` in thousandths; none when it is no quantity, below zero, or too large to be one.
#[must_use]
pub fn thousandths(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let exponent = suffix.strip_prefix(['e', 'E']).and_then(|exponent| exponent.parse::<u32>().ok());
    let factor: u128 = match (suffix, exponent) {
        (_, Some(exponent)) => 10_u128.checked_pow(exponent)?.checked_mul(1000)?,
        ("m", None) => 1,
        ("", None) => 1000,
        ("k", None) => 1_000_000,
        ("M", None) => 1_000_000_000,
        ("G", None) => 1_000_000_000_000,
        ("T", None) => 1_000_000_000_000_000,
        ("P", None) => 1_000_000_000_000_000_000,
        ("E", None) => 1_000_000_000_000_000_000_000,
        ("Ki", None) => 1000 << 10,
        ("Mi", None) => 1000 << 20,
        ("Gi", None) => 1000 << 30,
        ("Ti", None) => 1000 << 40,
        ("Pi", None) => 1000 << 50,
        ("Ei", None) => 1000 << 60,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let value = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let scale = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    value(whole)?.checked_mul(factor)?.checked_add(value(part)?.checked_mul(factor)? / scale)
}

#[cfg(test)]
mod tests {
    use super::thousandths;

    #[test]
    fn reads_quantities() {
        for (asked, milli) in [
            ("1", 1000),
            ("250m", 250),
            ("2k", 2_000_000),
            ("1Mi", 1_048_576_000),
            ("1.5Gi", 1_610_612_736_000),
            (".5", 500),
            ("12e2", 1_200_000),
        ] {
            assert_eq!(thousandths(asked), Some(milli), "{asked}");
        }
        for nonsense in
            ["many", "", ".", "1..5", "1e999999999", "99999999999999999999999999999999999999999Ei"]
        {
            assert_eq!(thousandths(nonsense), None, "{nonsense}");
        }
    }
}
