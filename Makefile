# kessel_router: build with PGXS. `make help` lists what one can ask for.

EXTENSION    = kessel_router
EXTVERSION   = 0.1
MODULE_big   = kessel_router
PG_CONFIG   ?= pg_config

SRCS         = $(sort $(wildcard src/*.c src/*/*.c))
OBJS         = $(SRCS:.c=.o)
KR_HEADERS   = $(sort $(wildcard src/*.h src/*/*.h))
SQL_MODULES  = $(sort $(wildcard sql/modules/*.sql))
# Built in, each after those that it requires.
BLUEPRINTS   = core storage apps ai_providers enterprise monitoring
BLUEPRINT_DIRS = $(addprefix sql/blueprints/,$(BLUEPRINTS))
SCRIPTS      = bin/kessel-load-blueprint
DATA_built   = sql/$(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN  = $(DATA_built) tmp_check results regression.diffs regression.out

PG_CPPFLAGS  = -I$(srcdir)/src $(addprefix -I$(srcdir)/,$(sort $(dir $(KR_HEADERS)))) -I$(shell $(PG_CONFIG) --includedir)
PG_CFLAGS    = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare $(WERROR)
SHLIB_LINK   = -lpq -lsodium -lcrypto

.DEFAULT_GOAL := all

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
else
all install clean:
	@echo "no server headers of PostgreSQL for PG_CONFIG=$(PG_CONFIG): run make deps" >&2; exit 1
endif

# Packaged servers are built without --enable-depend: any header rebuilds all.
$(OBJS): $(KR_HEADERS)

$(DATA_built): $(SQL_MODULES) $(wildcard $(addsuffix /*,$(BLUEPRINT_DIRS))) $(SCRIPTS) Makefile
	{ cat $(SQL_MODULES) && bin/kessel-load-blueprint --print $(BLUEPRINT_DIRS) && \
	  echo 'UPDATE kessel.migrations SET author = NULL; UPDATE kessel.blueprints SET built_in = true;'; } > $@.tmp && mv $@.tmp $@

# What runs scripts. A line "name: ## text" shows in make help.
.PHONY: help deps test test-matrix test-sanitize test-fuzz bench

help: ## this list
	@echo "make [target] [PG_CONFIG=/path/to/pg_config]"
	@printf '  %-14s %s\n' all "build (the default)" install "install into the PostgreSQL of PG_CONFIG" clean "remove what was built"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

deps: ## install the packages that building and testing need (Debian)
	@PG_CONFIG="$(PG_CONFIG)" ci/deps

test: all ## build, install and run all tests; LAYERS="regress tap" TESTS="smoke" narrow it
	@MAKE="$(MAKE)" PG_CONFIG="$(PG_CONFIG)" ci/install
	@PG_CONFIG="$(PG_CONFIG)" TESTS="$(TESTS)" test/run $(LAYERS)

test-matrix: ## the same on PostgreSQL 17 and 18, in Debian systems under /var/cache/kessel_router; VERSIONS="17"
	@ci/matrix $(VERSIONS)

test-sanitize: ## tests under the address and undefined behaviour sanitizers, and valgrind; TOOLS="asan"
	@PG_CONFIG="$(PG_CONFIG)" ci/deps valgrind
	@PG_CONFIG="$(PG_CONFIG)" TESTS="$(TESTS)" test/sanitize $(TOOLS)

test-fuzz: all ## 10,000 random queries by sqlsmith on router tables; KR_FUZZ_QUERIES, KR_FUZZ_SEED
	@PG_CONFIG="$(PG_CONFIG)" ci/deps sqlsmith
	@MAKE="$(MAKE)" PG_CONFIG="$(PG_CONFIG)" ci/install
	@PG_CONFIG="$(PG_CONFIG)" test/run fuzz

bench: all ## compare router table, postgres_fdw and a direct connection
	@MAKE="$(MAKE)" PG_CONFIG="$(PG_CONFIG)" ci/install
	@PG_CONFIG="$(PG_CONFIG)" test/run bench

.PHONY: quickstart quickstart-stop
quickstart: ## build, install, start five clusters with a CRM of six tenants, and show the router at work
	@PG_CONFIG="$(PG_CONFIG)" quickstart/start.sh

quickstart-stop: ## stop those clusters and remove their folder
	@quickstart/stop.sh
