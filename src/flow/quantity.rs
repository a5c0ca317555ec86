//! Kubernetes quantities as whole thousandths of their unit, read as the API server reads them: rounded up, and never
//! more than its largest. What it accepts counts as it does there, however odd the notation.

/// No quantity is larger: 2^63-1 of its unit.
const LARGEST: u128 = 9_223_372_036_854_775_807_000;
/// Digits behind the point that are counted before a power of 1024; what is behind them only rounds up.
const FRACTION_DIGITS: usize = 17;

/// What follows the number, and what it is multiplied with.
enum Scale {
    /// So many powers of ten.
    Ten(i64),
    /// So many powers of two.
    Two(u32),
}

/// `2Gi`, `1.5`, `250m`, `1e3` in thousandths; none when it is no quantity, or below zero, which nothing here can be.
#[must_use]
pub fn thousandths(text: &str) -> Option<u128> {
    let (is_negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.contains('.') || whole.is_empty() && part.is_empty() {
        return None;
    }
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let amount = match scale(suffix)? {
        Scale::Ten(power) => decimal(whole, part, power.saturating_add(3)),
        Scale::Two(power) => binary(whole, part, 1000 << power),
    };
    (!is_negative || amount == 0).then_some(amount)
}

fn scale(suffix: &str) -> Option<Scale> {
    Some(match suffix {
        "n" => Scale::Ten(-9),
        "u" => Scale::Ten(-6),
        "m" => Scale::Ten(-3),
        "" => Scale::Ten(0),
        "k" => Scale::Ten(3),
        "M" => Scale::Ten(6),
        "G" => Scale::Ten(9),
        "T" => Scale::Ten(12),
        "P" => Scale::Ten(15),
        "E" => Scale::Ten(18),
        "Ki" => Scale::Two(10),
        "Mi" => Scale::Two(20),
        "Gi" => Scale::Two(30),
        "Ti" => Scale::Two(40),
        "Pi" => Scale::Two(50),
        "Ei" => Scale::Two(60),
        exponent => Scale::Ten(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

/// Moves the point, so that only digits are looked at: no exponent is too large for that.
fn decimal(whole: &str, part: &str, power: i64) -> u128 {
    let digits = format!("{whole}{part}");
    let leading = digits.len() - digits.trim_start_matches('0').len();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    // So many digits stand before the point; with none there the least that can be had is one.
    let before = signed(whole.len()).saturating_sub(signed(leading)).saturating_add(power);
    let Ok(before) = usize::try_from(before) else { return 1 };
    if before > 22 {
        return LARGEST;
    }
    let (kept, rest) = digits.split_at(before.min(digits.len()));
    let rounded = u128::from(rest.bytes().any(|digit| digit != b'0'));
    let zeros = before.saturating_sub(kept.len());
    kept.bytes()
        .chain(std::iter::repeat_n(b'0', zeros))
        .fold(0, push_digit)
        .saturating_add(rounded)
        .min(LARGEST)
}

fn binary(whole: &str, part: &str, factor: u128) -> u128 {
    let counted = part.get(..FRACTION_DIGITS).unwrap_or(part);
    let tenths = counted.bytes().fold(0, push_digit) + u128::from(part.len() > counted.len());
    let one = counted.bytes().fold(1_u128, |one, _| one * 10);
    let fraction = (tenths * factor).div_ceil(one);
    whole.bytes().fold(0, push_digit).saturating_mul(factor).saturating_add(fraction).min(LARGEST)
}

fn push_digit(number: u128, digit: u8) -> u128 {
    number.saturating_mul(10).saturating_add(u128::from(digit.saturating_sub(b'0')))
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{LARGEST, thousandths};

    #[test]
    fn reads_quantities() {
        for (asked, milli) in [
            ("0", 0),
            ("1", 1000),
            ("4.", 4000),
            ("250m", 250),
            ("2k", 2_000_000),
            ("5E", 5_000_000_000_000_000_000_000),
            ("1Mi", 1_048_576_000),
            ("1.5Gi", 1_610_612_736_000),
            ("0.10000000000000000000Ki", 102_400),
            (".5", 500),
            ("12e2", 1_200_000),
            ("1E3", 1_000_000),
            ("1e+3", 1_000_000),
            ("12000e-3", 12_000),
            ("0.00012e6", 120_000),
            ("+137438953472", 137_438_953_472_000),
            ("137438953472000000u", 137_438_953_472_000),
            ("5000000n", 5),
            ("00000000000000000000000000000000000000000000017", 17_000),
            ("-0", 0),
        ] {
            assert_eq!(thousandths(asked), Some(milli), "{asked}");
        }
    }

    #[test]
    fn rounds_up_and_stops_at_the_largest() {
        for (asked, milli) in
            [("1n", 1), ("1u", 1), ("0.0001", 1), ("1.0001", 1001), ("1e-999999999", 1), ("1000001n", 2)]
        {
            assert_eq!(thousandths(asked), Some(milli), "{asked}");
        }
        // One digit more than is counted still rounds up.
        assert_eq!(thousandths("0.0000000000000000001Ki"), Some(1));
        for asked in [
            "2e99",
            "1e999999999",
            "999999999999999999Ei",
            "99999999999999999999999999999999999999999Ei",
            "9223372036854775808",
            "99999999999999999999999999999999999999999999",
            "10E",
        ] {
            assert_eq!(thousandths(asked), Some(LARGEST), "{asked}");
        }
    }

    #[test]
    fn knows_what_is_none() {
        let nonsense = [
            "",
            "many",
            "two",
            ".",
            "+",
            "1..5",
            "1.2.3",
            "Gi",
            "2Gx",
            "2 Gi",
            "2GiB",
            "-1",
            "-1n",
            "--1",
            "+-1",
            "1e",
            "1e+",
            "1e1.5",
            "1e3Ki",
            "1e99999999999999999999",
            "0x10",
            "1,5",
            " 1",
        ];
        for nonsense in nonsense {
            assert_eq!(thousandths(nonsense), None, "{nonsense}");
        }
    }
}
