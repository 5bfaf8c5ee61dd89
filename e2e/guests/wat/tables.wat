;; Grows every table that it has as far as they go, then fails. In text: Rust has no words for tables.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $grows
    (table $a 1 funcref)
    (table $b 1 funcref)
    (table $c 1 funcref)
    (table $d 1 funcref)
    (func $f)
    (elem declare func $f)
    (func (export "handle") (param i32 i32)
      (loop $again
        (br_if $again (i32.ne (table.grow $a (ref.func $f) (i32.const 100)) (i32.const -1))))
      (loop $again
        (br_if $again (i32.ne (table.grow $b (ref.func $f) (i32.const 100)) (i32.const -1))))
      (loop $again
        (br_if $again (i32.ne (table.grow $c (ref.func $f) (i32.const 100)) (i32.const -1))))
      (loop $again
        (br_if $again (i32.ne (table.grow $d (ref.func $f) (i32.const 100)) (i32.const -1))))
      unreachable))
  (core instance $it (instantiate $grows))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $it "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
