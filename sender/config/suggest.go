package config

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// invented maps words of pages about PowerMTA that PowerMTA never had to what they mean.
var invented = map[string]string{
	"accounting-log-file":           "acct-file",
	"add-vmta":                      "virtual-mta",
	"admin-password":                "http-access",
	"administrator":                 "postmaster",
	"attempt-interval":              "retry-after",
	"backoff-mode":                  "smtp-pattern-list",
	"backoff-reroute-to":            "backoff-reroute-to-virtual-mta",
	"backoff-trigger-pattern":       "smtp-pattern-list",
	"bind":                          "smtp-listener",
	"bounce-log":                    "acct-file",
	"bounce-classification-file":    "bounce-category-patterns",
	"command-timeout":               "smtp-command-timeout",
	"dkim-domain":                   "domain-key",
	"dkim-key":                      "domain-key",
	"dkim-private-key-file":         "domain-key",
	"dkim-selector":                 "domain-key",
	"domain-selection":              "virtual-mta-pool",
	"enable-starttls":               "use-starttls",
	"fbl-domain":                    "feedback-loop-processor",
	"fbl-handler":                   "feedback-loop-processor",
	"http-listener":                 "http-mgmt-port",
	"http-mgmt-acl":                 "http-access",
	"http-mgmt-listener":            "http-mgmt-port",
	"limits":                        "domain",
	"log-level":                     "log-connections",
	"failure-log":                   "acct-file",
	"http-mgmt-interface":           "http-mgmt-port",
	"map-header-to-column":          "map-header-to-field",
	"max-conn-rate":                 "max-connect-rate",
	"max-connections":               "max-smtp-out",
	"max-delivery-attempts":         "max-retries",
	"max-messages-rate":             "max-msg-rate",
	"max-message-rate":              "max-msg-rate",
	"max-msg-size":                  "max-message-size",
	"max-per-host-out":              "max-smtp-out",
	"max-rcpt-per-msg":              "max-rcpt-per-message",
	"memory-pool-max":               "memory-pool-buffer-size",
	"pmta-hostname":                 "host-name",
	"queue":                         "domain",
	"require-starttls-if-available": "use-starttls",
	"resolve-to":                    "smtp-hosts",
	"retry-interval":                "retry-after",
	"routing-file":                  "smtp-hosts",
	"smtp-port":                     "default-smtp-port",
	"smtp-server-hostname":          "host-name",
	"smtp-server-port":              "smtp-listener",
	"spool-dir":                     "spool",
	"tls":                           "use-starttls",
	"use-dkim":                      "dkim-sign",
	"vmta":                          "virtual-mta",
	"vmta-pool":                     "virtual-mta-pool",
}

// candidates are the names that may be suggested in each scope, sorted, and under "" those of all
// scopes. Aliases are no good advice.
var candidates = sync.OnceValue(func() map[string][]string {
	byScope := map[string][]string{}
	for _, d := range Directives() {
		if d.Status != Alias {
			byScope[d.Scope] = append(byScope[d.Scope], d.Name)
			byScope[""] = append(byScope[""], d.Name)
		}
	}
	slices.Sort(byScope[""])
	byScope[""] = slices.Compact(byScope[""])
	return byScope
})

// suggest returns a hint for an unknown directive, or nothing.
func suggest(name, scopeName string) string {
	if s, ok := invented[name]; ok {
		return hint(s)
	}
	if h := closest(name, candidates()[scopeName]); h != "" {
		return h
	}
	return closest(name, candidates()[""])
}

// suggestSection returns a hint for an unknown section, or nothing.
func suggestSection(name string) string {
	if s, ok := invented[name]; ok {
		return hint(s)
	}
	return closest(name, slices.Sorted(maps.Keys(sectionRules)))
}

func hint(name string) string {
	if _, ok := sectionRules[name]; ok && name != "virtual-mta" {
		return fmt.Sprintf("; did you mean <%s>?", name)
	}
	return fmt.Sprintf("; did you mean %q?", name)
}

// closest returns a hint at the candidate with the least edit distance to name, if that is small
// against its length.
func closest(name string, among []string) string {
	const shortest, longest = 3, 64
	if len(name) < shortest || len(name) > longest {
		return ""
	}
	best, found := len(name)/7+2, ""
	for _, c := range among {
		if d := distance(name, c, best); d < best {
			best, found = d, c
		}
	}
	if found == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", found)
}

// distance returns the edit distance of a and b, a swap of neighbours counting as one edit, or
// any number from bound upwards if it is not below bound.
func distance(a, b string, bound int) int {
	if len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least > bound {
			return bound
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
