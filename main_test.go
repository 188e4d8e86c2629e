package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"carom/schemas/service"
)

func TestHelpOfEachSubcommand(t *testing.T) {
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			var byWord, byFlag bytes.Buffer
			words := strings.Fields(c.name)
			byWordErr := run(t.Context(), append([]string{"help"}, words...), service.IO{Out: &byWord, Err: t.Output()})
			byFlagErr := run(t.Context(), append(words, "--help"), service.IO{Out: &byFlag, Err: t.Output()})
			if service.ExitStatus(byWordErr) != 0 || service.ExitStatus(byFlagErr) != 0 || byWord.String() != byFlag.String() {
				t.Fatalf("carom help %s: %v\n%s\ncarom %s --help: %v\n%s", c.name, byWordErr, &byWord, c.name, byFlagErr, &byFlag)
			}
			help := byFlag.String()
			_, example, ok := strings.Cut(help, "\nExample")
			if !ok || !strings.Contains(example, "carom "+c.name+" ") || !strings.Contains(example, "\nFlags:\n  -") {
				t.Errorf("the help lacks an example or its flags:\n%s", help)
			}
			if strings.Contains(help, "\n  -json") || strings.Contains(help, "\n  --c ") {
				t.Errorf("the help writes a flag otherwise than people do:\n%s", help)
			}
		})
	}
}

func TestHelpOfNothing(t *testing.T) {
	for _, word := range []string{"help", "nope", "check"} {
		err := run(t.Context(), []string{"help", word}, service.IO{Out: t.Output(), Err: t.Output()})
		if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "(see carom help)") {
			t.Errorf("carom help %s: %v, want exit status 2 and the way out", word, err)
		}
	}
}

func TestComplaintNamesItsCommandOnce(t *testing.T) {
	for _, tc := range []struct{ name, err, want string }{
		{"of a subcommand", "carom load mail: --to is missing", "carom load mail: --to is missing"},
		{"of a file", "carom.conf:3:1: unknown directive", "carom: carom.conf:3:1: unknown directive"},
		{"of anything else", "the port is in use", "carom: the port is in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := complaint(errors.New(tc.err)); got != tc.want {
				t.Errorf("complaint(%q) = %q, want %q", tc.err, got, tc.want)
			}
		})
	}
}

func TestHalfACommandNamesTheWhole(t *testing.T) {
	for _, c := range commands {
		first, second, ok := strings.Cut(c.name, " ")
		if _, _, err := find([]string{first}); !ok || err == nil { // "carom classify" is one by itself
			continue
		}
		err := run(t.Context(), []string{first}, service.IO{Out: t.Output(), Err: t.Output()})
		if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), `"carom `+first+" "+second+`"`) {
			t.Errorf("carom %s: %v, want exit status 2 and the name %q", first, err, c.name)
		}
	}
}
