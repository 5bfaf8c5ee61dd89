package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// content stands behind the gates, and tells whether credentials came through.
var content = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, r.URL.Path+r.Header.Get("Authorization"))
})

// ask sends a GET with a header; the body comes back when the answer is 200, else the challenge.
func ask(t *testing.T, url string, prepare func(*http.Request)) (status int, said string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	prepare(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, response.Header.Get("WWW-Authenticate")
	}
	return response.StatusCode, string(body)
}

func password(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

func nobody(*http.Request) {}

func TestTheBasicGateWantsThePassword(t *testing.T) {
	server := httptest.NewServer(basicGate(content))
	defer server.Close()
	const path = "/v2/a/b/manifests/1"
	for _, test := range []struct {
		prepare func(*http.Request)
		status  int
		said    string
	}{
		{nobody, 401, `Basic realm="podless"`},
		{password(gateUser, "wrong"), 401, `Basic realm="podless"`},
		{password("somebody", gatePassword), 401, `Basic realm="podless"`},
		{password(gateUser, gatePassword), 200, path},
	} {
		if status, said := ask(t, server.URL+path, test.prepare); status != test.status || said != test.said {
			t.Errorf("%d %q, expected %d %q", status, said, test.status, test.said)
		}
	}
}

func TestATokenIsGoodForItsRepositoryOnly(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = bearerGate("http://"+server.Listener.Addr().String(), content)
	server.Start()
	defer server.Close()

	status, challenge := ask(t, server.URL+"/v2/a/b/manifests/1", nobody)
	if status != 401 || !strings.Contains(challenge, `realm="`+server.URL+`/token"`) ||
		!strings.Contains(challenge, `scope="repository:a/b:pull"`) {
		t.Fatalf("%d %s", status, challenge)
	}
	tokens := server.URL + "/token?service=podless&scope=repository:a/b:pull"
	if status, _ := ask(t, tokens, nobody); status != 401 {
		t.Errorf("a token without a password: %d", status)
	}
	status, said := ask(t, tokens, password(gateUser, gatePassword))
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(said), &answer); status != 200 || err != nil || answer.Token == "" {
		t.Fatalf("%d %s: %v", status, said, err)
	}
	show := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+answer.Token) }
	for path, expected := range map[string]int{
		"/v2/a/b/manifests/1": 200, "/v2/a/b/blobs/sha256:1": 200, "/v2/a/manifests/1": 401, "/v2/a/b/c/tags/list": 401,
	} {
		if status, said := ask(t, server.URL+path, show); status != expected || (status == 200 && said != path) {
			t.Errorf("%s: %d %s, expected %d", path, status, said, expected)
		}
	}
	if status, _ := ask(t, server.URL+"/v2/a/b/manifests/1", password(gateUser, gatePassword)); status != 401 {
		t.Errorf("a password in place of a token: %d", status)
	}
}

func TestTheCorruptGateChangesWhatIsAskedForByItsDigest(t *testing.T) {
	server := httptest.NewServer(corruptGate(content))
	defer server.Close()
	for path, said := range map[string]string{
		"/v2/a/b/manifests/1":        "/v2/a/b/manifests/1",
		"/v2/a/b/manifests/sha256:1": ".v2/a/b/manifests/sha256:1",
		"/v2/a/b/blobs/sha256:1":     ".v2/a/b/blobs/sha256:1",
	} {
		if status, got := ask(t, server.URL+path, nobody); status != 200 || got != said {
			t.Errorf("%s: %d %q, expected %q", path, status, got, said)
		}
	}
}
