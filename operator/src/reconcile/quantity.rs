//! Bytes of a Kubernetes quantity. In: its text; out: bytes. Pure.

/// Reads `64Mi`, `1.5M`, `67108864`, `64e6`; `None` when it is not a whole number of bytes.
pub(crate) fn bytes(quantity: &str) -> Option<u64> {
    const SUFFIXES: [(&str, f64); 12] = [
        ("Ki", 1024.0),
        ("Mi", 1048576.0),
        ("Gi", 1073741824.0),
        ("Ti", 1099511627776.0),
        ("Pi", 1125899906842624.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("", 1.0),
    ];
    let (number, factor) =
        SUFFIXES.into_iter().find_map(|(suffix, factor)| Some((quantity.strip_suffix(suffix)?, factor)))?;
    // `inf` and `nan` are numbers to Rust.
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '+') {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * factor;
    (bytes.fract() == 0.0 && bytes <= 9_007_199_254_740_992.0).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubernetes_reads_them() {
        for (text, want) in [
            ("64Mi", Some(64 << 20)),
            ("1Mi", Some(1 << 20)),
            ("0.5Gi", Some(512 << 20)),
            ("1.5M", Some(1_500_000)),
            ("67108864", Some(67_108_864)),
            ("64e6", Some(64_000_000)),
            ("64000000000m", Some(64_000_000)),
            ("100k", Some(100_000)),
            ("1m", None),
            ("", None),
            ("Mi", None),
            ("-1Mi", None),
            ("infMi", None),
            ("64 Mi", None),
            ("64MiB", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
