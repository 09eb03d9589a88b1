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
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

var required = []string{"provenance", "evaluation", "data", "approval"}

var fulcio = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}

const trigger = 20 // the one extension with several allowed values

var errBroken = errors.New("REFUSED")

// event is a line of the log.
type event struct {
	Line           int
	Previous       string
	At             time.Time
	Event          string
	Actor          string
	Model          string
	Seq            int
	ManifestDigest string `json:"manifest_digest"`
	Details        map[string]any
	sha256         string
}

func (e event) name() string        { return fmt.Sprintf("%s/%d", e.Model, e.Seq) }
func (e event) environment() string { text, _ := e.Details["environment"].(string); return text }

// manifest is what is read of a release's manifest.json.
type manifest struct {
	Model string
	Files []struct {
		Path   string
		Size   int
		Sha256 string
	}
	Rollback *struct {
		Seq            int
		ManifestDigest string `json:"manifest_digest"`
	}
}

type identity struct {
	Predicate  string
	Subject    string
	Events     []string
	Extensions map[string]*string // arc below fulcio -> value; null: must be absent
}

type about struct {
	Environment string
	From, To    string // days, UTC, both included
	Head        struct {
		Lines  int
		Sha256 string
	}
}

type pack struct {
	folder     string
	about      about
	identities map[string]map[string]identity // environment -> fact
	verifier   *verify.Verifier
	events     []event
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
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return broken("audit.jsonl line %d: %v", i+1, err)
		}
		if e.Line != i+1 || e.Previous != previous {
			return broken("audit.jsonl line %d does not follow the line before", i+1)
		}
		e.sha256 = digestOf(line)
		p.events = append(p.events, e)
		previous = digestOf(line)
	}
	if len(lines) != p.about.Head.Lines || previous != p.about.Head.Sha256 {
		return broken("audit.jsonl ends at line %d, %s", len(lines), previous)
	}
	return nil
}

// releases: name and manifest digest of what a pack of these days must hold: releases with an event in the days, and
// those in force when they began, as far as the log has them as signed; and what a rollback among them returns to.
func (p *pack) releases() (chosen, origins map[string]string, err error) {
	signed, wanted, before := map[string]string{}, map[string]bool{}, map[string]string{}
	for _, e := range p.events {
		if e.Model == "" {
			continue
		}
		if e.Event == "sign" {
			if known, twice := signed[e.name()]; twice && known != e.ManifestDigest {
				return nil, nil, broken("%s: two manifests signed", e.name())
			}
			signed[e.name()] = e.ManifestDigest
		}
		day := e.At.UTC().Format(time.DateOnly)
		if p.about.From <= day && day <= p.about.To {
			wanted[e.name()] = true
		} else if day < p.about.From && e.Event == "promote" {
			before[e.environment()] = e.name()
		}
	}
	for _, name := range before {
		wanted[name] = true
	}
	chosen, origins = map[string]string{}, map[string]string{}
	for name := range wanted {
		if digest, known := signed[name]; known {
			chosen[name] = digest
		}
	}
	for name := range chosen {
		manifest, err := p.manifest(name)
		if err != nil {
			return nil, nil, err
		}
		back := manifest.Rollback
		if back == nil {
			continue
		}
		origin := fmt.Sprintf("%s/%d", manifest.Model, back.Seq)
		if digest, here := chosen[origin]; !here {
			origins[origin] = back.ManifestDigest
		} else if digest != back.ManifestDigest {
			return nil, nil, broken("%s: returns to %s of sha256 %s, not %s", name, origin, back.ManifestDigest, digest)
		}
		earlier, err := p.manifest(origin)
		if err != nil {
			return nil, nil, err
		}
		if earlier.Model != manifest.Model || earlier.Rollback != nil || !slices.Equal(earlier.Files, manifest.Files) {
			return nil, nil, broken("%s: not the content of %s, which it returns to", name, origin)
		}
	}
	return chosen, origins, nil
}

func (p *pack) manifest(name string) (manifest, error) {
	var found manifest
	if err := load(filepath.Join(p.folder, "releases", filepath.FromSlash(name), "manifest.json"), &found); err != nil {
		return found, broken("%s: no manifest: %v", name, err)
	}
	return found, nil
}

// promotions: the last promotion of a release to each environment.
func (p *pack) promotions(name string) map[string]event {
	found := map[string]event{}
	for _, e := range p.events {
		if e.Event == "promote" && e.name() == name {
			found[e.environment()] = e
		}
	}
	return found
}

// checkNothingElse: the folders are the releases that the log asks for.
func (p *pack) checkNothingElse(known ...map[string]string) error {
	folders, err := filepath.Glob(filepath.Join(p.folder, "releases", "*", "*"))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		name := filepath.Base(filepath.Dir(folder)) + "/" + filepath.Base(folder)
		if !slices.ContainsFunc(known, func(m map[string]string) bool { _, here := m[name]; return here }) {
			return broken("%s: the log does not ask for it", name)
		}
	}
	return nil
}

// checkRelease: exactly the four facts, and the promotions that the log has last.
func (p *pack) checkRelease(name, digest string, promotions map[string]event) (int, error) {
	folder := filepath.Join(p.folder, "releases", filepath.FromSlash(name))
	manifest, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	if err != nil {
		return 0, broken("%s: no manifest: %v", name, err)
	}
	if found := digestOf(manifest); found != digest {
		return 0, broken("%s: manifest of sha256 %s, not %s", name, found, digest)
	}
	files, err := os.ReadDir(filepath.Join(folder, "bundles"))
	if err != nil {
		return 0, err
	}
	var facts []string
	for _, file := range files {
		fact := strings.TrimSuffix(file.Name(), ".sigstore.json")
		facts = append(facts, fact)
		kind, environment, deployed := strings.Cut(fact, "-")
		if !deployed {
			environment = p.about.Environment
		}
		who, known := p.identities[environment][kind]
		if !known {
			return 0, broken("%s: nobody may sign %s", name, file.Name())
		}
		path := filepath.Join(folder, "bundles", file.Name())
		said, err := p.checkBundle(path, who, name, digest)
		if err != nil {
			return 0, err
		}
		if e, known := promotions[environment]; deployed && (!known || !saysWhatWasLogged(said, e)) {
			return 0, broken("%s: %s is not the promotion in the log", name, file.Name())
		}
	}
	wanted := slices.Clone(required)
	for environment := range promotions {
		wanted = append(wanted, "deployment-"+environment)
	}
	for _, fact := range wanted {
		if !slices.Contains(facts, fact) {
			return 0, broken("%s: no %s", name, fact)
		}
	}
	return len(files), nil
}

// saysWhatWasLogged: the statement's words are those of the line that is signed into it.
func saysWhatWasLogged(said map[string]any, e event) bool {
	head, _ := said["audit"].(map[string]any)
	if head["lines"] != float64(e.Line) || head["sha256"] != e.sha256 || said["actor"] != e.Actor {
		return false
	}
	for _, key := range []string{"environment", "action", "reason", "previous", "expires"} {
		if said[key] != e.Details[key] {
			return false
		}
	}
	return true
}

func (p *pack) checkBundle(path string, who identity, name, digest string) (map[string]any, error) {
	entity, err := bundle.LoadJSONFromPath(path)
	if err != nil {
		return nil, broken("%s: %v", path, err)
	}
	san, err := verify.NewSANMatcher(who.Subject, "")
	if err != nil {
		return nil, err
	}
	issuer, err := verify.NewIssuerMatcher(*who.Extensions["8"], "")
	if err != nil {
		return nil, err
	}
	signer, err := verify.NewCertificateIdentity(san, issuer, certificate.Extensions{})
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(digest)
	if err != nil {
		return nil, err
	}
	policy := verify.NewPolicy(verify.WithArtifactDigest("sha256", raw), verify.WithCertificateIdentity(signer))
	result, err := p.verifier.Verify(entity, policy)
	if err != nil {
		return nil, broken("%s: %v", path, err)
	}
	if err := checkExtensions(entity, who); err != nil {
		return nil, broken("%s: %v", path, err)
	}
	subjects := result.Statement.GetSubject()
	if len(subjects) != 1 || subjects[0].GetName() != name || result.Statement.GetPredicateType() != who.Predicate {
		return nil, broken("%s: %s about %v", path, result.Statement.GetPredicateType(), subjects)
	}
	fmt.Printf("verified %s %s\n", name, filepath.Base(path))
	return result.Statement.GetPredicate().AsMap(), nil
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
	_, err = p.checkBundle(path, p.identities[p.about.Environment]["revocation"], "revocations", digest)
	return err
}

func run(folder string) error {
	p, err := open(folder)
	if err != nil {
		return err
	}
	if err := p.checkLog(); err != nil {
		return err
	}
	chosen, origins, err := p.releases()
	if err != nil {
		return err
	}
	if err := p.checkNothingElse(chosen, origins); err != nil {
		return err
	}
	bundles := 1
	for _, part := range []map[string]string{chosen, origins} {
		for _, name := range slices.Sorted(maps.Keys(part)) {
			promotions := map[string]event{} // of what a rollback returns to, only the facts are here
			if _, own := chosen[name]; own {
				promotions = p.promotions(name)
			}
			checked, err := p.checkRelease(name, part[name], promotions)
			if err != nil {
				return err
			}
			bundles += checked
		}
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
