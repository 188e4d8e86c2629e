package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"carom/analytics/policy"
	"carom/schemas/service"
)

const aboutPolicy = `carom policy checks the policy file of carom analytics, and shows what may stand in it.

  carom policy check FILE   say whether the file is right: 0, or 2 with each mistake and its line
  carom policy print        write every word with its default and what it means

The file is YAML. What it does not say has its default; a word that is not known
is a mistake. A running carom analytics serve takes a new text at its next run,
and stays with the old one while the new one has a mistake.

Example:
  carom policy print >policy.yaml
  carom policy check policy.yaml`

// checkedPolicy is what carom policy check says of a file that is right.
type checkedPolicy struct {
	File      string            `json:"file"`
	Hash      string            `json:"hash"` // as policy_hash in limit_log, in hexadecimal
	Mode      string            `json:"mode"`
	Providers map[string]string `json:"providers"` // their modes
}

// PolicyCommand runs carom policy check or print.
func PolicyCommand(_ context.Context, args []string, stdio service.IO) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("policy", verb), aboutPolicy, stdio)
	asJSON := flags.Bool("json", false, "write the result of check as JSON")
	plain, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	switch {
	case verb == "print" && len(plain) == 0:
		_, err := io.WriteString(stdio.Out, policy.Text)
		return err
	case verb == "check" && len(plain) == 1:
	case verb == "check":
		return service.Configf("carom policy check: want one file, for example: carom policy check policy.yaml")
	default:
		return service.Configf("carom policy %s: want check FILE or print (see carom policy --help)", verb)
	}
	p, err := policy.Load(plain[0])
	if err != nil {
		return service.Configf("%w\n(carom policy print shows every word, its default and what it means)", err)
	}
	c := checkedPolicy{File: plain[0], Hash: fmt.Sprintf("%016x", p.Hash), Mode: string(p.Mode), Providers: map[string]string{}}
	for provider := range p.Providers {
		c.Providers[provider] = string(p.ModeOf(provider))
	}
	if *asJSON {
		return json.NewEncoder(stdio.Out).Encode(c)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s is right: mode %s", c.File, c.Mode)
	for _, provider := range slices.Sorted(maps.Keys(c.Providers)) {
		fmt.Fprintf(&text, ", %s at %s", c.Providers[provider], provider)
	}
	_, err = fmt.Fprintf(stdio.Out, "%s (hash %s)\n", &text, c.Hash)
	return err
}
