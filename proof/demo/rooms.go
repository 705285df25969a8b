package demo

import (
	"context"
	"fmt"
	"slices"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// plan is a group that the bots make.
type plan struct {
	title     string
	languages []string
	theme     map[string]string // by language
	size      int
	weight    float64 // how much is said there, beside the others
}

func planned(title, language, theme string, size int) plan {
	return plan{title: title, languages: []string{language}, theme: map[string]string{language: theme}, size: size, weight: 1}
}

// rooms are the groups. The first is the one into which people are invited: it
// is the only one in two languages, and slower, so that they can read along.
var rooms = []plan{
	{title: "봉수대 광장 · Beacon Square", languages: []string{"ko", "en"}, theme: map[string]string{"ko": "plaza", "en": "plaza"}, size: 8, weight: 0.3},
	planned("우리 가족", "ko", "family", 4),
	planned("동네 배드민턴", "ko", "badminton", 5),
	planned("운영 당직", "ko", "ops", 4),
	planned("점심 원정대", "ko", "lunch", 5),
	planned("토요 산악회", "ko", "hiking", 5),
	planned("Flat 4B", "en", "flat", 4),
	planned("Sunday football", "en", "football", 5),
	planned("Book club", "en", "books", 4),
	planned("Night shift", "en", "night shift", 4),
}

// talk is a room that bots talk in.
type talk struct {
	id      string
	plan    plan
	members []*bot
	// languages are those of the plan that a member speaks: at least one.
	languages []string
	base      uint64 // its last number when we came

	// What follows belongs to the director.
	credit float64
	scene  *scene
	cast   []*bot
	made   map[string]string
	next   int
	said   []string          // client IDs of the scene's lines
	seqs   map[string]uint64 // of those that are acknowledged
}

// speakers are the members who speak a language.
func (t *talk) speakers(language string) (out []*bot) {
	for _, b := range t.members {
		if b.language == language {
			out = append(out, b)
		}
	}
	return out
}

// roomSpace names the groups of a demo, so that making them again finds them.
var roomSpace = uuid.MustParse("0b0a5b6e-7a3a-4d0e-9d8e-3f0f6f0c0b25")

// settle makes the groups, and a room for each two neighbours who share a
// language; guide is in the first group.
func settle(ctx context.Context, bots []*bot, guide *bot) ([]*talk, error) {
	byLanguage := map[string][]*bot{}
	for _, b := range bots {
		byLanguage[b.language] = append(byLanguage[b.language], b)
	}
	var talks []*talk
	turn := map[string]int{}
	for i, p := range rooms {
		t := &talk{plan: p}
		for k := range p.size {
			language := p.languages[k%len(p.languages)]
			all := byLanguage[language]
			if len(all) < 2 {
				continue
			}
			b := all[turn[language]%len(all)]
			turn[language]++
			if !slices.Contains(t.members, b) {
				t.members = append(t.members, b)
			}
		}
		if len(t.members) < 2 {
			continue
		}
		for _, language := range p.languages {
			if len(t.speakers(language)) > 0 {
				t.languages = append(t.languages, language)
			}
		}
		if i == 0 {
			t.members = append(t.members, guide)
		}
		talks = append(talks, t)
	}
	for _, language := range []string{"ko", "en"} {
		for two := range slices.Chunk(byLanguage[language], 2) {
			if len(two) == 2 {
				talks = append(talks, &talk{plan: planned("", language, "pair", 2), members: two, languages: []string{language}})
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, t := range talks {
		g.Go(func() error {
			err := acquaint(ctx, t.open)
			if err != nil {
				return fmt.Errorf("make room %q: %w", t.plan.title, err)
			}
			return nil
		})
	}
	return talks, g.Wait()
}

// open makes the room, or finds it.
func (t *talk) open(ctx context.Context) error {
	var room *edgev1.Room
	var err error
	first := t.members[0].conn
	if t.plan.title == "" {
		room, err = first.OpenDirect(ctx, t.members[1].id())
	} else {
		var others []string
		for _, b := range t.members[1:] {
			others = append(others, b.id())
		}
		room, err = first.CreateGroup(ctx, t.plan.title, others, uuid.NewSHA1(roomSpace, []byte(t.plan.title)).String())
	}
	if err == nil {
		t.id, t.base = room.GetRoomId(), room.GetLastSeq()
	}
	return err
}
