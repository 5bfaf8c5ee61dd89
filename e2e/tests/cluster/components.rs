//! Components that a compiler does not like: bytes, each with one thing wrong. Pure.

use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentExportKind, ComponentExportSection, ComponentImportSection,
    ComponentInstanceSection, ComponentTypeRef, ComponentTypeSection, ComponentValType, Function, FunctionSection,
    MemorySection, MemoryType, Module, ModuleSection, NestedComponentSection, PrimitiveValType, TypeSection, ValType,
};

/// Most parameters that a block may have.
const PARAMETERS: usize = 1000;

/// A memory of 64-bit addresses, which is WebAssembly and not what the engine supports.
pub(crate) fn unsupported() -> Vec<u8> {
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: true, shared: false, page_size_log2: None });
    around(Module::new().section(&memories))
}

/// Takes some gigabytes to compile, at once: the compiler remembers for each local what it is in each block, up to the
/// last one in which it is set.
pub(crate) fn needs_memory() -> Vec<u8> {
    const LOCALS: u32 = 40_000;
    const BLOCKS: u32 = 16_000;
    let mut function = Function::new([(LOCALS, ValType::I64)]);
    let mut code = function.instructions();
    for _ in 0..BLOCKS {
        code.block(BlockType::Empty).end();
    }
    for local in 0..LOCALS {
        code.i64_const(0).local_set(local);
    }
    code.end();
    functions(&function, 1)
}

/// Takes many minutes to compile, and little memory: three bytes are a block that hands on a thousand values.
pub(crate) fn needs_time() -> Vec<u8> {
    const BLOCKS: usize = 250;
    const FUNCTIONS: usize = 6000;
    let mut function = Function::new([]);
    let mut code = function.instructions();
    for _ in 0..PARAMETERS {
        code.i64_const(0);
    }
    for _ in 0..BLOCKS {
        code.block(BlockType::FunctionType(1)).end();
    }
    for _ in 0..PARAMETERS {
        code.drop();
    }
    code.end();
    functions(&function, FUNCTIONS)
}

/// So many functions to import, which nobody has.
pub(crate) fn imports(count: usize) -> Vec<u8> {
    let (mut types, mut imports) = (ComponentTypeSection::new(), ComponentImportSection::new());
    types.function().async_(false).params([] as [(&str, ComponentValType); 0]).result(None);
    for number in 0..count {
        imports.import(format!("f{number}"), ComponentTypeRef::Func(0));
    }
    let mut component = Component::new();
    component.section(&types).section(&imports);
    component.finish()
}

/// A type that is twice the one before it, and so on: some bytes that stand for very many.
pub(crate) fn doubling(times: u32) -> Vec<u8> {
    let mut types = ComponentTypeSection::new();
    types.defined_type().primitive(PrimitiveValType::U8);
    for number in 0..times {
        types.defined_type().tuple([ComponentValType::Type(number); 2]);
    }
    let mut component = Component::new();
    component.section(&types);
    component.finish()
}

/// So many times the same function, which takes and gives nothing. The second type is that of the largest block.
fn functions(function: &Function, count: usize) -> Vec<u8> {
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    types.ty().function([ValType::I64; PARAMETERS], [ValType::I64; PARAMETERS]);
    for _ in 0..count {
        functions.function(0);
        code.function(function);
    }
    around(Module::new().section(&types).section(&functions).section(&code))
}

/// A component with this module in it, and a handler, which is an empty one.
fn around(module: &Module) -> Vec<u8> {
    let (mut instances, mut exports) = (ComponentInstanceSection::new(), ComponentExportSection::new());
    instances.instantiate(0, std::iter::empty::<(&str, ComponentExportKind, u32)>());
    exports.export("wasi:http/incoming-handler@0.2.0", ComponentExportKind::Instance, 0, None);
    let mut component = Component::new();
    component
        .section(&ModuleSection(module))
        .section(&NestedComponentSection(&Component::new()))
        .section(&instances)
        .section(&exports);
    component.finish()
}
