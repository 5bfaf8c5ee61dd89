//! Reading what a component says of itself: untrusted bytes in, facts or why there are none out. Pure.

use podless_engine::Flavour;
use wasmparser::{
    Encoding, Parser, Payload, Validator, WasmFeatures,
    component_types::{ComponentAnyTypeId, ComponentEntityType},
    types::Types,
};

use super::{Facts, FactsError, ImportFact, MOST, NAME_CHARS};

/// How files of machine code begin, ours and those of other engines: ELF (`wasmtime compile`, shared objects), Wasmtime's
/// before it was ELF, Wasmer's, WAMR's; programs for macOS and Windows.
const MACHINE_CODE: [&[u8]; 7] =
    [b"\x7fELF", b"\0wasmtime-aot", b"wasmer-", b"\0wasmer-", b"\0aot", b"\xcf\xfa\xed\xfe", b"MZ"];

/// Reads a component.
pub(crate) fn facts(bytes: &[u8]) -> Result<Facts, FactsError> {
    if MACHINE_CODE.iter().any(|magic| bytes.starts_with(magic)) {
        return Err(FactsError::Precompiled);
    }
    if bytes.starts_with(b"\x1f\x8b") {
        return Err(FactsError::NotWebAssembly("it is packed by gzip: push the .wasm file as it is".to_owned()));
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(FactsError::NotWebAssembly("it does not begin as WebAssembly does".to_owned()));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(FactsError::CoreModule);
    }
    let facts = read(bytes).map_err(|error| FactsError::NotWebAssembly(error.to_string()))?;
    let (imports, exports) = (facts.imports.len(), facts.exports.len());
    if imports.max(exports) > MOST { Err(FactsError::TooMany(imports + exports)) } else { Ok(facts) }
}

fn read(bytes: &[u8]) -> wasmparser::Result<Facts> {
    // What the engine does not support the compiler refuses, in its own words.
    let validate = |features| Validator::new_with_features(features).validate_all(bytes);
    let (types, flavour) = match validate(WasmFeatures::all().difference(WasmFeatures::CM_ASYNC)) {
        Ok(types) => (types, Flavour::P2),
        Err(_) => (validate(WasmFeatures::all())?, Flavour::P3),
    };
    let mut facts = Facts { flavour, ..Facts::default() };
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding: Encoding::Component | Encoding::Module, .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    let name = import?.name.name;
                    let types_only = types_only(&types, name);
                    facts.imports.push(ImportFact { name: cut(name), types_only });
                }
            }
            Payload::ComponentExportSection(exports) if depth == 1 => {
                for export in exports {
                    facts.exports.push(cut(export?.name.name));
                }
            }
            _ => {}
        }
    }
    let mut names = facts.imports.iter().map(|import| &import.name).chain(&facts.exports);
    if names.any(|name| is_of_wasi_0_3(name)) {
        facts.flavour = Flavour::P3;
    }
    Ok(facts)
}

/// The engine of 0.2 has none of the interfaces of 0.3, the synchronous ones neither.
fn is_of_wasi_0_3(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, version)| version.starts_with("0.3."))
}

fn types_only(types: &Types, import: &str) -> bool {
    let is_name = |ty: &ComponentEntityType| {
        matches!(ty, ComponentEntityType::Type { referenced, .. }
            if !matches!(referenced, ComponentAnyTypeId::Resource(_)))
    };
    let types = types.as_ref();
    match types.component_item_for_import(import).map(|item| item.ty) {
        Some(ComponentEntityType::Instance(id)) => types[id].exports.values().all(|item| is_name(&item.ty)),
        Some(other) => is_name(&other),
        None => false,
    }
}

fn cut(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Facts {
        facts(&wat::parse_str(text).expect("valid text")).expect("a component")
    }

    #[test]
    fn what_is_no_component() {
        for (bytes, what) in [
            (&b"\x7fELF\x02"[..], FactsError::Precompiled),
            (b"\0asm\x01\0\0\0", FactsError::CoreModule),
            (b"", FactsError::NotWebAssembly("it does not begin as WebAssembly does".to_owned())),
            (b"(component)", FactsError::NotWebAssembly("it does not begin as WebAssembly does".to_owned())),
        ] {
            assert_eq!(facts(bytes), Err(what));
        }
        assert!(matches!(facts(b"\0asm\x0d\0\x01\0\xff"), Err(FactsError::NotWebAssembly(_))));
        assert_eq!(facts(b"\0asm\x0d\0\x01\0"), Ok(Facts::default()));
    }

    #[test]
    fn its_own_imports_and_exports_and_none_of_what_is_inside() {
        let facts = of(r#"(component
            (import "a:b/calls" (instance (export "f" (func))))
            (import "a:b/resources" (instance (export "r" (type (sub resource)))))
            (import "a:b/types" (instance (type $t (record (field "n" u32))) (export "t" (type (eq $t)))))
            (import "function" (func $f))
            (component $inner
                (import "inside" (func $g))
                (export "inside-too" (func $g)))
            (core module (import "m" "n" (func)) (func (export "o")))
            (instance $i (instantiate $inner (with "inside" (func $f))))
            (export "e:f/g@1.0.0" (instance $i)))"#);
        let imports: Vec<_> = facts.imports.iter().map(|i| (i.name.as_str(), i.types_only)).collect();
        let want = [("a:b/calls", false), ("a:b/resources", false), ("a:b/types", true), ("function", false)];
        assert_eq!(imports, want);
        assert_eq!(facts.exports, ["e:f/g@1.0.0"]);
    }

    #[test]
    fn the_engine_is_a_function_of_the_component() {
        let asynchronous = r#"(component $inner
            (core module $m (func (export "f") (result i32) i32.const 0)
                (func (export "callback") (param i32 i32 i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "f") async (canon lift (core func $i "f") async (callback (core func $i "callback")))))"#;
        for (inside, flavour) in [
            ("", Flavour::P2),
            (r#"(import "wasi:http/types@0.2.3" (instance (export "f" (func))))"#, Flavour::P2),
            (r#"(import "wasi:random/random@0.3.0" (instance (export "f" (func))))"#, Flavour::P3),
            (r#"(import "example:a/b@0.3.0" (instance (export "f" (func))))"#, Flavour::P2),
            (r#"(import "f" (func async))"#, Flavour::P3),
            (r#"(type (stream u8))"#, Flavour::P3),
            // Mixed: one thing is enough, wherever it is.
            (asynchronous, Flavour::P3),
        ] {
            assert_eq!(of(&format!("(component {inside})")).flavour, flavour, "{inside}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
            bytes.append(&mut tail);
            let _ = facts(&bytes);
        }
    }
}
