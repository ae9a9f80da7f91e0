//! Are blocks of fields unpacked as RFC 7541 says?

use proptest::prelude::*;

use super::*;
use crate::http2::hpack::{Decoder, Encoder};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

fn unpack(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, hpack::Invalid> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        fields.push(format!("{}: {}", text(name), text(value)));
    })?;
    Ok(fields)
}

#[test]
fn rfc_7541_appendix_c_2() {
    for (block, field, kept) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key: custom-header",
            55,
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            ":path: /sample/path",
            0,
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password: secret",
            0,
        ),
        ("82", ":method: GET", 0),
    ] {
        let mut decoder = Decoder::new();
        assert_eq!(unpack(&mut decoder, &hex(block)).unwrap(), [field]);
        assert_eq!(decoder.table_used(), kept);
    }
}

#[test]
fn rfc_7541_appendix_c_3_and_c_4_requests() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let get = [
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
    ];
    let expected: [(Vec<&str>, u32); 3] = [
        (get.to_vec(), 57),
        ([&get[..], &["cache-control: no-cache"]].concat(), 110),
        (
            vec![
                ":method: GET",
                ":scheme: https",
                ":path: /index.html",
                ":authority: www.example.com",
                "custom-key: custom-value",
            ],
            164,
        ),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        for (block, (fields, used)) in blocks.iter().zip(&expected) {
            assert_eq!(unpack(&mut decoder, &hex(block)).unwrap(), *fields);
            assert_eq!(decoder.table_used(), *used);
        }
    }
}

#[test]
fn rfc_7541_appendix_c_5_and_c_6_responses_with_eviction() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a
         3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04
         677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49
         553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
         919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
         821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
         4ee5 b106 3d50 07",
    ];
    let date = |second| format!("date: Mon, 21 Oct 2013 20:13:{second} GMT");
    let response = |status: &str, second| {
        vec![
            format!(":status: {status}"),
            "cache-control: private".to_owned(),
            date(second),
            "location: https://www.example.com".to_owned(),
        ]
    };
    let mut last = response("200", 22);
    last.push("content-encoding: gzip".to_owned());
    last.push("set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1".to_owned());
    let expected = [
        (response("302", 21), 222),
        (response("307", 21), 222),
        (last, 215),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        // The examples suppose a table of 256 bytes.
        unpack(&mut decoder, &[0x3f, 0xe1, 0x01]).unwrap();
        for (block, (fields, used)) in blocks.iter().zip(&expected) {
            assert_eq!(unpack(&mut decoder, &hex(block)).unwrap(), *fields);
            assert_eq!(decoder.table_used(), *used);
        }
    }
}

#[test]
fn blocks_that_say_nothing_are_refused() {
    for (what, block) in [
        ("index 0", "80"),
        ("index beyond the tables", "be"),
        ("name beyond the tables", "7f00 0161"),
        ("a number without end", "ffff ffff ffff ffff ffff"),
        ("a number too large", "ffff ffff ff7f"),
        ("a number cut", "ff"),
        ("a name cut", "0005 61"),
        ("a value cut", "0001 6105"),
        ("a value missing", "0001 61"),
        ("a table too large", "3fe2 1f"),
        ("a table size after a field", "8220"),
        ("bad padding", "0001 6181 18"),
    ] {
        assert!(unpack(&mut Decoder::new(), &hex(block)).is_err(), "{what}");
    }
    // Numbers that are padded with zeros are odd, and legal.
    assert_eq!(
        unpack(&mut Decoder::new(), &hex("0f81 8000 0161")).unwrap(),
        ["accept-encoding: a"]
    );
    assert_eq!(
        unpack(&mut Decoder::new(), &hex("203f e11f 82")).unwrap(),
        [":method: GET"]
    );
}

#[test]
fn an_entry_may_push_out_the_one_that_names_it() {
    let mut decoder = Decoder::new();
    let name = [b'n'; 100];
    let mut first = vec![0x40, 100];
    first.extend_from_slice(&name);
    // A value of 3,964 bytes fills the table.
    first.extend_from_slice(&[0x7f, 0xfd, 0x1d]);
    let value_len = 4096 - 32 - 100;
    let first = [&first[..], &vec![b'v'; value_len]].concat();
    unpack(&mut decoder, &first).unwrap();
    assert_eq!(decoder.table_len(), 1);
    let seen = unpack(&mut decoder, &[0x7e, 1, b'x']).unwrap();
    assert_eq!(seen, [format!("{}: x", "n".repeat(100))]);
    assert_eq!((decoder.table_len(), decoder.table_used()), (1, 133));
    assert_eq!(unpack(&mut decoder, &[0xbe]).unwrap(), seen);
}

#[test]
fn the_table_stays_small_however_often_it_turns_over() {
    let mut decoder = Decoder::new();
    for k in 0..5_000_u32 {
        let value = format!(
            "{k:0>width$}",
            width = usize::try_from(k % 200).unwrap() + 1
        );
        let mut block = vec![0x40, 1, b'k', 0x7f];
        // Length as a number with continuation, or short.
        block.truncate(3);
        let n = value.len();
        if n < 127 {
            block.push(u8::try_from(n).unwrap());
        } else {
            let rest = n - 127;
            block.push(0x7f);
            if rest < 128 {
                block.push(u8::try_from(rest).unwrap());
            } else {
                block.extend_from_slice(&[u8::try_from(rest % 128 + 128).unwrap(), 1]);
            }
        }
        block.extend_from_slice(value.as_bytes());
        unpack(&mut decoder, &block).unwrap();
        assert_eq!(
            unpack(&mut decoder, &[0xbe]).unwrap(),
            [format!("k: {value}")]
        );
        assert!(decoder.table_used() <= 4096 && decoder.table_memory() <= 2 * 4096);
    }
}

fn any_fields() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let known = prop_oneof![
        Just(b"content-type".to_vec()),
        Just(b"cookie".to_vec()),
        Just(b"via".to_vec()),
        Just(b"accept-charset".to_vec()),
        "[a-z][a-z0-9-]{0,200}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(
        (known, proptest::collection::vec(any::<u8>(), 0..300)),
        0..20,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_packed_is_unpacked(fields in any_fields()) {
        let mut block = Vec::new();
        let mut encoder = Encoder::default();
        encoder.begin(&mut block);
        for (name, value) in &fields {
            hpack::field(name, value, &mut block);
        }
        let mut seen = Vec::new();
        let mut decoder = Decoder::new();
        decoder.decode(&block, |name, value| seen.push((name.to_vec(), value.to_vec()))).unwrap();
        let kept: Vec<_> = fields
            .into_iter()
            .filter(|(n, _)| !matches!(n.as_slice(), b"te" | b"host" | b"upgrade" | b"connection"))
            .collect();
        prop_assert_eq!(seen, kept);
        prop_assert_eq!(decoder.table_len(), 0);
    }

    #[test]
    fn huffman_texts_survive(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut code, mut back) = (Vec::new(), Vec::new());
        huffman::encode(&text, &mut code);
        huffman::decode(&code, &mut back).unwrap();
        prop_assert_eq!(text, back);
    }

    #[test]
    fn any_bytes_are_unpacked_or_refused(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let mut bytes = 0;
            let _ = decoder.decode(&block, |name, value| bytes += name.len() + value.len());
            prop_assert!(decoder.table_used() <= 4096);
        }
    }
}
