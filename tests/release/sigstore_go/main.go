// Verify the bundles of an audit pack with sigstore-go: a second implementation that shares no code with
// Sekisho or sigstore-python. It reads the pack and nothing else, and needs no network.
//
//	go run . FOLDER
//
// Exit codes: 0 all of it holds, 1 something does not, 2 could not be checked.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

var required = []string{"provenance", "evaluation", "data", "approval"}

var fulcio = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}

const trigger = 20 // the one extension with several allowed values

var errBroken = errors.New("REFUSED")

type release struct{ Name, Digest, Environment string }

type identity struct {
	Predicate  string
	Subject    string
	Events     []string
	Extensions map[string]*string // arc below fulcio -> value; null: must be absent
}

type about struct {
	Environment string
	Head        struct {
		Lines  int
		Sha256 string
	}
	Releases []release
}

type pack struct {
	folder     string
	about      about
	identities map[string]map[string]identity // environment -> fact
	verifier   *verify.Verifier
}

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBroken}, args...)...)
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func load(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func open(folder string) (*pack, error) {
	p := &pack{folder: folder}
	if err := load(filepath.Join(folder, "pack.json"), &p.about); err != nil {
		return nil, err
	}
	if err := load(filepath.Join(folder, "identities.json"), &p.identities); err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRootFromPath(filepath.Join(folder, "trust", "trusted_root.json"))
	if err != nil {
		return nil, err
	}
	p.verifier, err = verify.NewVerifier(trusted,
		verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	return p, err
}

// checkLog: each line carries the hash of the line before; the last is the head that pack.json names.
func (p *pack) checkLog() error {
	raw, err := os.ReadFile(filepath.Join(p.folder, "audit.jsonl"))
	if err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n"))
	previous := strings.Repeat("0", 64)
	for i, line := range lines {
		var event struct {
			Line     int
			Previous string
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return broken("audit.jsonl line %d: %v", i+1, err)
		}
		if event.Line != i+1 || event.Previous != previous {
			return broken("audit.jsonl line %d does not follow the line before", i+1)
		}
		previous = digestOf(line)
	}
	if len(lines) != p.about.Head.Lines || previous != p.about.Head.Sha256 {
		return broken("audit.jsonl ends at line %d, %s", len(lines), previous)
	}
	return nil
}

func (p *pack) checkRelease(entry release) (int, error) {
	folder := filepath.Join(p.folder, "releases", filepath.FromSlash(entry.Name))
	manifest, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		return 0, err
	}
	if found := digestOf(manifest); found != entry.Digest {
		return 0, broken("%s: manifest of sha256 %s, not %s", entry.Name, found, entry.Digest)
	}
	files, err := os.ReadDir(filepath.Join(folder, "bundles"))
	if err != nil {
		return 0, err
	}
	var facts []string
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".sigstore.json")
		fact, environment, deployed := strings.Cut(name, "-")
		if !deployed {
			environment = entry.Environment
		}
		who, known := p.identities[environment][fact]
		if !known {
			return 0, broken("%s: nobody may sign %s", entry.Name, file.Name())
		}
		path := filepath.Join(folder, "bundles", file.Name())
		if err := p.checkBundle(path, who, entry.Name, entry.Digest); err != nil {
			return 0, err
		}
		facts = append(facts, fact)
	}
	for _, fact := range required {
		if !slices.Contains(facts, fact) {
			return 0, broken("%s: no %s", entry.Name, fact)
		}
	}
	return len(files), nil
}

func (p *pack) checkBundle(path string, who identity, name, digest string) error {
	entity, err := bundle.LoadJSONFromPath(path)
	if err != nil {
		return broken("%s: %v", path, err)
	}
	san, err := verify.NewSANMatcher(who.Subject, "")
	if err != nil {
		return err
	}
	issuer, err := verify.NewIssuerMatcher(*who.Extensions["8"], "")
	if err != nil {
		return err
	}
	signer, err := verify.NewCertificateIdentity(san, issuer, certificate.Extensions{})
	if err != nil {
		return err
	}
	raw, err := hex.DecodeString(digest)
	if err != nil {
		return err
	}
	policy := verify.NewPolicy(verify.WithArtifactDigest("sha256", raw), verify.WithCertificateIdentity(signer))
	result, err := p.verifier.Verify(entity, policy)
	if err != nil {
		return broken("%s: %v", path, err)
	}
	if err := checkExtensions(entity, who); err != nil {
		return broken("%s: %v", path, err)
	}
	subjects := result.Statement.GetSubject()
	if len(subjects) != 1 || subjects[0].GetName() != name || result.Statement.GetPredicateType() != who.Predicate {
		return broken("%s: %s about %v", path, result.Statement.GetPredicateType(), subjects)
	}
	fmt.Printf("verified %s %s\n", name, filepath.Base(path))
	return nil
}

// checkExtensions compares the certificate's Fulcio extensions with exactly the expected values.
func checkExtensions(entity *bundle.Bundle, who identity) error {
	content, err := entity.VerificationContent()
	if err != nil {
		return err
	}
	values := map[int]string{}
	for _, extension := range content.Certificate().Extensions {
		id := extension.Id
		if len(id) != len(fulcio)+1 || !id[:len(fulcio)].Equal(fulcio) {
			continue
		}
		var value string
		if rest, err := asn1.UnmarshalWithParams(extension.Value, &value, "utf8"); err != nil || len(rest) > 0 {
			return fmt.Errorf("extension %v is not a UTF-8 string", id)
		}
		values[id[len(fulcio)]] = value
	}
	for text, expected := range who.Extensions {
		arc, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		found, present := values[arc]
		if present != (expected != nil) || (present && found != *expected) {
			return fmt.Errorf("certificate extension %d is %q", arc, found)
		}
	}
	if !slices.Contains(who.Events, values[trigger]) {
		return fmt.Errorf("triggered by %q", values[trigger])
	}
	if values[10] != values[13] || values[19] != values[13] {
		return errors.New("the workflow's code is from another commit than the sources")
	}
	return nil
}

// checkRevocations: the list is about itself; its subject is its own digest.
func (p *pack) checkRevocations() error {
	path := filepath.Join(p.folder, "trust", "revoked.sigstore.json")
	entity, err := bundle.LoadJSONFromPath(path)
	if err != nil {
		return broken("%s: %v", path, err)
	}
	envelope, err := entity.Envelope()
	if err != nil {
		return broken("%s: %v", path, err)
	}
	statement, err := envelope.Statement()
	if err != nil || len(statement.GetSubject()) != 1 {
		return broken("%s: %v", path, err)
	}
	digest := statement.GetSubject()[0].GetDigest()["sha256"]
	return p.checkBundle(path, p.identities[p.about.Environment]["revocation"], "revocations", digest)
}

func run(folder string) error {
	p, err := open(folder)
	if err != nil {
		return err
	}
	if err := p.checkLog(); err != nil {
		return err
	}
	bundles := 1
	for _, entry := range p.about.Releases {
		checked, err := p.checkRelease(entry)
		if err != nil {
			return err
		}
		bundles += checked
	}
	if err := p.checkRevocations(); err != nil {
		return err
	}
	fmt.Printf("the pack holds: %d bundles by sigstore-go\n", bundles)
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, errBroken) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}
