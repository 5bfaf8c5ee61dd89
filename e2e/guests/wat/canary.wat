;; Looks whether anything of another instance is left where it lives, and leaves something there itself.
(component
  (core module $m
    (memory 4 64)
    ;; What an instance begins with is mapped from the component's image.
    (data (i32.const 4096) "canary\00\01")
    (table $t 64 4096 funcref)
    (global $g (mut i64) (i64.const 0))
    (func $f)
    (elem declare func $f)

    ;; Grows its memory by so many pages and its table by as many elements; answers how many words, elements and globals
    ;; are not as they must be in a fresh instance, and spoils them all.
    (func (export "visit") (param $more i32) (result i32)
      (local $found i32) (local $at i32) (local $end i32)
      (drop (memory.grow (local.get $more)))
      (drop (table.grow $t (ref.null func) (local.get $more)))
      (local.set $found (i64.ne (i64.load (i32.const 4096)) (i64.const 0x01_00_79_72_61_6e_61_63)))
      (i64.store (i32.const 4096) (i64.const 0))
      (local.set $found (i32.add (local.get $found) (i64.ne (global.get $g) (i64.const 0))))
      (global.set $g (i64.const -1))
      (local.set $end (i32.mul (memory.size) (i32.const 65536)))
      (loop $words
        (local.set $found
          (i32.add (local.get $found) (i64.ne (i64.load (local.get $at)) (i64.const 0))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $words (i32.lt_u (local.get $at) (local.get $end))))
      (memory.fill (i32.const 0) (i32.const 0xaa) (local.get $end))
      (local.set $at (i32.const 0))
      (loop $elements
        (local.set $found
          (i32.add (local.get $found) (i32.eqz (ref.is_null (table.get $t (local.get $at))))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $elements (i32.lt_u (local.get $at) (table.size $t))))
      (table.fill $t (i32.const 0) (ref.func $f) (table.size $t))
      (local.get $found)))
  (core instance $i (instantiate $m))
  (func (export "visit") (param "more" u32) (result u32) (canon lift (core func $i "visit"))))
