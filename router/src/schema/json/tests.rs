//! The JSON mapping, case by case.

use super::*;
use crate::schema::plan::Plan;
use crate::schema::tests::schema_of;

const PROTO: &str = r#"
    syntax = "proto3";
    package t;
    import "google/protobuf/any.proto";
    import "google/protobuf/duration.proto";
    import "google/protobuf/empty.proto";
    import "google/protobuf/field_mask.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    import "sluice/options.proto";
    enum Color { COLOR_NONE = 0; COLOR_RED = 1; COLOR_DARK = -7; }
    message M {
      int32 i32 = 1; int64 i64 = 2; uint32 u32 = 3; uint64 u64 = 4; sint32 s32 = 5; sint64 s64 = 6;
      fixed32 f32 = 7; fixed64 f64 = 8; sfixed32 sf32 = 9; sfixed64 sf64 = 10;
      float flt = 11; double dbl = 12; bool yes = 13; string text = 14; bytes raw = 15; Color color = 16;
      M child = 17; repeated int32 many = 18; repeated string words = 19; repeated M children = 20;
      map<string, int32> counts = 21; map<int64, M> by_id = 22; map<bool, string> by_flag = 23;
      oneof choice { string name = 24; int32 number = 25; google.protobuf.NullValue nothing = 26; }
      optional int32 maybe = 27; int32 some_long_name = 28;
      google.protobuf.Timestamp time = 30; google.protobuf.Duration took = 31;
      google.protobuf.Struct object = 32; google.protobuf.Value value = 33; google.protobuf.ListValue list = 34;
      google.protobuf.Int64Value wrapped = 35; google.protobuf.StringValue wrapped_text = 36;
      google.protobuf.FieldMask mask = 37; google.protobuf.Empty empty = 38; google.protobuf.Any any = 39;
      google.protobuf.BytesValue wrapped_raw = 40;
      google.protobuf.Timestamp epoch_ms = 41 [(sluice.field).epoch = EPOCH_MILLISECONDS];
      google.protobuf.Timestamp epoch_s = 42 [(sluice.field).epoch = EPOCH_SECONDS];
      int32 renamed = 43 [json_name = "@r"]; repeated Color colors = 44;
      repeated google.protobuf.Value values = 45;
    }"#;

fn round(schema: &Schema, json: &str) -> Result<String, Error> {
    let mut wire = Vec::new();
    from_json(schema, json.as_bytes(), &mut wire)?;
    crate::schema::check(schema, &wire)?;
    let mut out = Vec::new();
    to_json(schema, &wire, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn what_is_read_is_written() {
    let schema = schema_of(PROTO, "t.M");
    let check = |json: &str, expected: &str| match round(&schema, json) {
        Ok(written) => assert_eq!(written, expected, "from {json}"),
        Err(error) => panic!("{error}: {json}"),
    };
    let same = |json: &str| check(json, json);
    same(r#"{}"#);
    check(" \t{ }\r\n", r#"{}"#);
    // Every integer at its edges, also as text and as a number that is whole.
    same(r#"{"i32":-2147483648,"i64":-9223372036854775808,"u32":4294967295,"u64":18446744073709551615}"#);
    same(r#"{"s32":-2147483648,"s64":-9223372036854775808,"f32":4294967295,"f64":18446744073709551615}"#);
    same(r#"{"sf32":-2147483648,"sf64":9223372036854775807,"i32":-1}"#);
    check(
        r#"{"i64":"-9223372036854775808","u64":"18446744073709551615"}"#,
        r#"{"i64":-9223372036854775808,"u64":18446744073709551615}"#,
    );
    check(
        r#"{"i32":1e3,"i64":9007199254740993.0,"u32":"2.50e1","u64":1.8446744073709551615e19}"#,
        r#"{"i32":1000,"i64":9007199254740993,"u32":25,"u64":18446744073709551615}"#,
    );
    check(r#"{"i32":-0,"i64":0.0,"u32":0e5,"s32":-0.0}"#, r#"{}"#);
    // Floats.
    same(r#"{"flt":1.5,"dbl":-1e+300}"#);
    same(r#"{"flt":0.1,"dbl":0.1}"#);
    same(r#"{"flt":"NaN","dbl":"-Infinity"}"#);
    check(r#"{"flt":"Infinity","dbl":"2.5"}"#, r#"{"flt":"Infinity","dbl":2.5}"#);
    check(
        r#"{"flt":3.4028235e38,"dbl":1.7976931348623157e308}"#,
        r#"{"flt":3.4028235e+38,"dbl":1.7976931348623157e+308}"#,
    );
    check(r#"{"dbl":0,"flt":0.0}"#, r#"{}"#);
    check(r#"{"dbl":-0.0}"#, r#"{"dbl":-0.0}"#);
    // Text.
    same(r#"{"text":"ü漢😀 plain and long enough","yes":true}"#);
    check(r#"{"text":"\u00fc\ud83d\ude00\/\b\f\u0000\""}"#, r#"{"text":"ü😀/\u0008\u000c\u0000\""}"#);
    same(r#"{"text":"a\\b\n\r\t"}"#);
    check(r#"{"te\u0078t":"x"}"#, r#"{"text":"x"}"#);
    check(r#"{"raw":"-_8","text":""}"#, r#"{"raw":"+/8="}"#);
    check(r#"{"raw":"+/8="}"#, r#"{"raw":"+/8="}"#);
    check(r#"{"raw":""}"#, r#"{}"#);
    // Enums, names, presence.
    same(r#"{"color":"COLOR_DARK","colors":["COLOR_NONE","COLOR_RED",99]}"#);
    check(r#"{"color":1}"#, r#"{"color":"COLOR_RED"}"#);
    check(r#"{"color":"COLOR_NONE"}"#, r#"{}"#);
    same(r#"{"maybe":0,"name":""}"#);
    check(r#"{"someLongName":1,"@r":2}"#, r#"{"some_long_name":1,"renamed":2}"#);
    check(r#"{"some_long_name":1,"renamed":2}"#, r#"{"some_long_name":1,"renamed":2}"#);
    check(r#"{"unknown":{"a":[1,null,{"b":"\"]}"}]},"i32":1,"other":-1.5e-7}"#, r#"{"i32":1}"#);
    check(
        r#"{"i32":null,"many":null,"counts":null,"child":null,"time":null,"name":null,"number":1}"#,
        r#"{"number":1}"#,
    );
    same(r#"{"nothing":null}"#);
    check(r#"{"nothing":"NULL_VALUE"}"#, r#"{"nothing":null}"#);
    // Nesting.
    same(r#"{"child":{},"many":[0,-1,300],"words":["","a"],"children":[{},{"child":{"i32":1}}]}"#);
    check(r#"{"many":[],"words":[],"counts":{}}"#, r#"{}"#);
    same(r#"{"counts":{"":0,"a":1,"b":2},"by_id":{"-5":{},"7":{"i32":1}},"by_flag":{"true":"x","false":""}}"#);
    check(r#"{"counts":{"a":1,"b":2,"a":3}}"#, r#"{"counts":{"b":2,"a":3}}"#);
    // Well-known types.
    same(r#"{"time":"2024-02-29T23:59:59.123456789Z","took":"-0.000000001s"}"#);
    same(r#"{"time":"0001-01-01T00:00:00Z","took":"315576000000s"}"#);
    same(r#"{"time":"9999-12-31T23:59:59.999999999Z","took":"0s"}"#);
    check(r#"{"time":"1970-01-01T01:30:00.5+01:30"}"#, r#"{"time":"1970-01-01T00:00:00.500Z"}"#);
    check(r#"{"time":"2016-12-31T23:59:60Z"}"#, r#"{"time":"2016-12-31T23:59:59Z"}"#);
    check(r#"{"time":"2024-01-01T00:00:00.1234567899Z"}"#, r#"{"time":"2024-01-01T00:00:00.123456789Z"}"#);
    check(
        r#"{"epoch_ms":1700000000123,"epoch_s":1700000000.000001}"#,
        r#"{"epoch_ms":"2023-11-14T22:13:20.123Z","epoch_s":"2023-11-14T22:13:20.000001Z"}"#,
    );
    check(
        r#"{"epoch_ms":"-1","epoch_s":"1970-01-01T00:00:00Z"}"#,
        r#"{"epoch_ms":"1969-12-31T23:59:59.999Z","epoch_s":"1970-01-01T00:00:00Z"}"#,
    );
    same(r#"{"object":{"a":null,"b":[1.5,"x",true,{}],"c":{"d":{}}},"value":null,"list":[null,[],{}]}"#);
    same(r#"{"values":[null,1.5,"a",[],{}]}"#);
    same(r#"{"wrapped":0,"wrapped_text":"","wrapped_raw":"AQI="}"#);
    check(r#"{"wrapped":"12"}"#, r#"{"wrapped":12}"#);
    same(r#"{"mask":"a,someName.inner","empty":{}}"#);
    check(r#"{"empty":{"ignored":1}}"#, r#"{"empty":{}}"#);
    same(r#"{"any":{"@type":"type.googleapis.com/t.M","i32":1,"any":{}}}"#);
    check(r#"{"any":{"i32":1,"@type":"x/t.M"}}"#, r#"{"any":{"@type":"x/t.M","i32":1}}"#);
    same(r#"{"any":{"@type":"x/google.protobuf.Timestamp","value":"2024-01-01T00:00:00Z"}}"#);
    same(r#"{"any":{"@type":"x/google.protobuf.Any","value":{"@type":"x/google.protobuf.Empty","value":{}}}}"#);
}

#[test]
fn what_does_not_fit_is_refused_with_place_and_field() {
    let schema = schema_of(PROTO, "t.M");
    let check = |json: &[u8], expected: &str| {
        let mut out = b"kept".to_vec();
        match from_json(&schema, json, &mut out) {
            Ok(()) => panic!("{} was read", String::from_utf8_lossy(json)),
            Err(error) => assert_eq!(error.to_string(), expected, "{}", String::from_utf8_lossy(json)),
        }
        assert_eq!(out, b"kept");
    };
    check(b"", "expected an object, found the end at byte 0");
    check(b"[]", "expected an object, found a list at byte 0");
    check(b"{\"i32\":1", "expected ',' or '}', found the end at byte 8");
    check(b"{\"i32\":1,}", "expected a key in quotes, found '}' at byte 9");
    check(b"{\"i32\" 1}", "expected ':', found a number at byte 7");
    check(b"{} {}", "more text behind the record at byte 3");
    check(b"{\"text\":\"\xff\"}", "text is not UTF-8 at byte 9");
    check(b"{\"text\":\"a\nb\"}", "text: control character in a string at byte 10");
    check(b"{\"text\":\"abc", "text: string does not end at byte 12");
    check(br#"{"text":"\x"}"#, "text: no such escape at byte 9");
    check(br#"{"text":"\u12"}"#, "text: \\u without four hexadecimal digits at byte 9");
    check(br#"{"text":"\ud800 "}"#, "text: surrogate stands alone at byte 9");
    check(br#"{"text":"\udc00"}"#, "text: surrogate stands alone at byte 9");
    check(br#"{"text":1}"#, "text: expected a string, found a number at byte 8");
    check(br#"{"i32":2147483648}"#, "i32: number is not whole or out of range at byte 7");
    check(br#"{"u32":-1}"#, "u32: number is not whole or out of range at byte 7");
    check(br#"{"i64":9223372036854775808.0}"#, "i64: number is not whole or out of range at byte 7");
    check(br#"{"i32":1.5}"#, "i32: number is not whole or out of range at byte 7");
    check(br#"{"i32":1e-400000000000}"#, "i32: number is not whole or out of range at byte 7");
    check(br#"{"i32":1e400000000000}"#, "i32: number is not whole or out of range at byte 7");
    check(br#"{"i32":01}"#, "expected ',' or '}', found a number at byte 8");
    check(br#"{"i32":1.}"#, "i32: number is cut short at byte 7");
    check(br#"{"i32":" 1"}"#, "i32: string is not a number at byte 7");
    check(br#"{"i32":""}"#, "i32: string is not a number at byte 7");
    check(br#"{"i32":true}"#, "i32: expected a number, found true or false at byte 7");
    check(br#"{"flt":1e39}"#, "flt: number is out of range at byte 7");
    check(br#"{"dbl":1e309}"#, "dbl: number is out of range at byte 7");
    check(br#"{"dbl":"inf"}"#, "dbl: string is not a number at byte 7");
    check(br#"{"dbl":NaN}"#, "dbl: expected a number, found 'N' at byte 7");
    check(br#"{"yes":"true"}"#, "yes: expected true or false, found a string at byte 7");
    check(br#"{"yes":1}"#, "yes: expected true or false, found a number at byte 7");
    check(br#"{"raw":"a"}"#, "raw: string is not base64 at byte 7");
    check(br#"{"raw":"+_aa"}"#, "raw: string is not base64 at byte 7");
    check(br#"{"color":"COLOR_BLUE"}"#, "color: enum has no value \"COLOR_BLUE\" at byte 9");
    check(br#"{"color":1.5}"#, "color: number is not whole or out of range at byte 9");
    check(br#"{"i32":1,"i32":2}"#, "i32: field comes twice at byte 15");
    check(br#"{"someLongName":1,"some_long_name":2}"#, "some_long_name: field comes twice at byte 35");
    check(br#"{"name":"a","number":1}"#, "number: another field of the same oneof came before at byte 21");
    check(br#"{"many":[1,null]}"#, "many: expected a number, found null at byte 11");
    check(br#"{"many":1}"#, "many: expected a list, found a number at byte 8");
    check(br#"{"counts":{"a":null}}"#, "counts: expected a number, found null at byte 15");
    check(br#"{"by_id":{"x":{}}}"#, "by_id: map has no such key as \"x\" at byte 14");
    check(br#"{"by_id":{"1.0":{}}}"#, "by_id: map has no such key as \"1.0\" at byte 16");
    check(br#"{"child":{"children":[{"i32":"x"}]}}"#, "child.children.i32: string is not a number at byte 29");
    check(br#"{"time":"2023-02-29T00:00:00Z"}"#, "time: not a time of the years 1 to 9999 at byte 8");
    check(br#"{"time":"2023-01-01t00:00:00Z"}"#, "time: not a time of the years 1 to 9999 at byte 8");
    check(br#"{"time":"2023-01-01T00:00:00"}"#, "time: not a time of the years 1 to 9999 at byte 8");
    check(br#"{"time":"0001-01-01T00:00:00+00:01"}"#, "time: not a time of the years 1 to 9999 at byte 8");
    check(br#"{"time":1700000000}"#, "time: expected a time in RFC 3339, found a number at byte 8");
    check(br#"{"took":"1"}"#, "took: not a duration like 1.5s of at most 10,000 years at byte 8");
    check(br#"{"mask":"a_b"}"#, "mask: field mask is not in camel case at byte 8");
    check(br#"{"any":{"i32":1}}"#, "any: message of any type has no @type at byte 16");
    check(br#"{"any":{"@type":"x/y.Z"}}"#, "any: no loaded schema defines \"x/y.Z\" at byte 24");
}

#[test]
fn depth_is_limited_everywhere() {
    let schema = schema_of(PROTO, "t.M");
    let nested = |open: &str, close: &str, count: usize| format!("{}{}", open.repeat(count), close.repeat(count));
    let json = |count| nested("{\"child\":", "}", count).replace(":}", ":{}}");
    assert!(round(&schema, &json(100)).is_ok());
    let error = round(&schema, &json(101)).unwrap_err().to_string();
    assert!(error.contains("nest more than 100 deep"), "{error}");
    for json in [
        format!("{{\"unknown\":{}}}", nested("[", "]", 200_000)),
        format!("{{\"list\":{}}}", nested("[", "]", 200_000)),
        format!("{{\"object\":{}}}", nested("{\"a\":", "}", 200_000)),
        nested("{\"any\":{\"@type\":\"x/t.M\",\"any\":", "}}", 200_000),
    ] {
        let error = round(&schema, &json).unwrap_err().to_string();
        assert!(error.contains("deep"), "{error}");
    }
    // The same from the wire: each level is a tag, a length and the rest; an Any needs its type as well.
    let mut wire = Vec::new();
    let mut any = Vec::new();
    for _ in 0..101 {
        let mut outer = Vec::new();
        crate::schema::wire::push_len(&mut outer, 17, &wire);
        wire = outer;
        let mut outer = Vec::new();
        crate::schema::wire::push_len(&mut outer, 1, b"x/google.protobuf.Any");
        crate::schema::wire::push_len(&mut outer, 2, &any);
        any = outer;
    }
    assert!(crate::schema::check(&schema, &wire).is_err());
    assert!(to_json(&schema, &wire, &mut Vec::new()).is_err());
    let mut record = Vec::new();
    crate::schema::wire::push_len(&mut record, 39, &any);
    assert!(to_json(&schema, &record, &mut Vec::new()).is_err());
}

#[test]
fn pieces_are_put_together_as_protobuf_says() {
    let schema = schema_of(PROTO, "t.M");
    let check = |parts: &[&str], expected: &str| {
        let mut wire = Vec::new();
        parts.iter().for_each(|part| from_json(&schema, part.as_bytes(), &mut wire).unwrap());
        // An unknown field in between belongs to nobody.
        let mut out = Vec::new();
        to_json(&schema, &wire, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    };
    check(&[r#"{"i32":1}"#, r#"{"i32":2}"#], r#"{"i32":2}"#);
    check(&[r#"{"many":[1]}"#, r#"{"i32":2}"#, r#"{"many":[3]}"#], r#"{"i32":2,"many":[1,3]}"#);
    check(&[r#"{"child":{"i32":1,"i64":1}}"#, r#"{"child":{"i32":2}}"#], r#"{"child":{"i32":2,"i64":1}}"#);
    check(&[r#"{"name":"a"}"#, r#"{"number":1}"#], r#"{"number":1}"#);
    check(&[r#"{"name":"a"}"#, r#"{"number":1}"#, r#"{"name":"b"}"#], r#"{"name":"b"}"#);
    check(&[r#"{"counts":{"a":1}}"#, r#"{"i32":1}"#, r#"{"counts":{"a":2}}"#], r#"{"i32":1,"counts":{"a":2}}"#);
    check(&[r#"{"value":1}"#, r#"{"value":"x"}"#], r#"{"value":"x"}"#);
}

#[test]
fn proto2_groups_and_extensions_are_fields_like_others() {
    let proto = r#"
        syntax = "proto2";
        package g;
        message M {
          optional group Part = 1 { optional int32 a = 1; repeated group Item = 2 { optional string b = 1; } }
          required int32 must = 2; optional int32 with_default = 3 [default = 7];
          repeated int32 unpacked = 4; repeated int32 packed = 5 [packed = true];
          extensions 100 to 200;
        }
        extend M { optional string more = 100; }"#;
    let schema = schema_of(proto, "g.M");
    let check = |json: &str| assert_eq!(round(&schema, json).unwrap(), json);
    check(r#"{"part":{"a":1,"item":[{"b":"x"},{}]},"must":0}"#);
    check(r#"{"with_default":0,"unpacked":[1,2],"packed":[1,2]}"#);
    check(r#"{"[g.more]":"x"}"#);
}

#[test]
fn hostile_names_and_shapes_do_no_harm() {
    // A message that only claims to be a timestamp is an object like any other.
    let pool = |message: prost_types::DescriptorProto| {
        let file = prost_types::FileDescriptorProto {
            name: Some("x.proto".into()),
            package: Some("google.protobuf".into()),
            message_type: vec![message],
            ..Default::default()
        };
        let mut pool = prost_reflect::DescriptorPool::new();
        pool.add_file_descriptor_proto(file).unwrap();
        pool
    };
    for name in ["Timestamp", "Value", "Struct", "Any", "Int64Value", "FieldMask", "ListValue", "Duration"] {
        let message = prost_types::DescriptorProto { name: Some(name.into()), ..Default::default() };
        let descriptor = pool(message).get_message_by_name(&format!("google.protobuf.{name}")).unwrap();
        assert_eq!(Plan::new(&descriptor).root().shape, crate::schema::plan::Shape::Object, "{name}");
    }
}
