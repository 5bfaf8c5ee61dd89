;; Has as many memories as a component may, and keeps them: it never ends.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (core module $keeps
    (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
    (func (export "handle") (param i32 i32) (loop $again (br $again))))
  (core instance $it (instantiate $keeps))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $it "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
