// asynq's side: one command a process, its options and its answer as JSON.
//
//	drain  {"socket", "n", "concurrency"}  tasks that wait in a paused queue, drained once it goes on
//	bulk   {"socket", "n", "callers"}      tasks scheduled an hour ahead, one by one, by so many goroutines
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

type options struct {
	Socket      string `json:"socket"`
	N           int    `json:"n"`
	Concurrency int    `json:"concurrency"`
	Callers     int    `json:"callers"`
}

const (
	warmUp = 400
	herd   = "herd"
)

var payload = []byte(strings.Repeat("x", 110))

func main() {
	var asked options
	if err := json.Unmarshal([]byte(os.Args[2]), &asked); err != nil {
		log.Fatal(err)
	}
	server := asynq.RedisClientOpt{Network: "unix", Addr: asked.Socket, PoolSize: 100}
	var seconds float64
	switch os.Args[1] {
	case "drain":
		seconds = drain(server, asked)
	case "bulk":
		seconds = bulk(server, asked)
	default:
		log.Fatalf("%q is no command", os.Args[1])
	}
	answer, _ := json.Marshal(map[string]float64{"seconds": seconds})
	fmt.Println(string(answer))
}

// enqueue gives n tasks to so many goroutines.
func enqueue(server asynq.RedisClientOpt, n int, callers int, more ...asynq.Option) {
	client := asynq.NewClient(server)
	defer client.Close()
	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Add(1)
		go func() {
			defer group.Done()
			for next.Add(1) <= int64(n) {
				if _, err := client.Enqueue(asynq.NewTask("noop", payload), more...); err != nil {
					log.Fatal(err)
				}
			}
		}()
	}
	group.Wait()
}

func bulk(server asynq.RedisClientOpt, asked options) float64 {
	started := time.Now()
	enqueue(server, asked.N, asked.Callers, asynq.ProcessIn(time.Hour))
	return time.Since(started).Seconds()
}

func drain(server asynq.RedisClientOpt, asked options) float64 {
	inspector := asynq.NewInspector(server)
	enqueue(server, asked.N, 64, asynq.Queue(herd))
	if err := inspector.PauseQueue(herd); err != nil {
		log.Fatal(err)
	}
	var done atomic.Int64
	worker := asynq.NewServer(server, asynq.Config{
		Concurrency: asked.Concurrency,
		Queues:      map[string]int{"default": 1, herd: 1},
		// An idle worker looks again after so long; a second by default.
		TaskCheckInterval: 10 * time.Millisecond,
		LogLevel:          asynq.ErrorLevel,
	})
	mux := asynq.NewServeMux()
	mux.HandleFunc("noop", func(context.Context, *asynq.Task) error {
		done.Add(1)
		return nil
	})
	if err := worker.Start(mux); err != nil {
		log.Fatal(err)
	}
	enqueue(server, warmUp, 64)
	until(func() bool { return done.Load() >= warmUp })
	started := time.Now()
	if err := inspector.UnpauseQueue(herd); err != nil {
		log.Fatal(err)
	}
	until(func() bool { return done.Load() >= int64(warmUp+asked.N) })
	until(func() bool {
		info, err := inspector.GetQueueInfo(herd)
		return err == nil && info.Active == 0 && info.Pending == 0
	})
	seconds := time.Since(started).Seconds()
	worker.Shutdown()
	return seconds
}

func until(holds func() bool) {
	for !holds() {
		time.Sleep(2 * time.Millisecond)
	}
}
