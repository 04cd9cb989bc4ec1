"""The checks of compiled kernels find what they are there to find: run on reports with a fault planted in each."""
# SPDX-License-Identifier: Apache-2.0
import unittest

import kernel_facts as facts

LIMITS = "# comment\n*  64 0 0 -\nmultiply 128 0 0 load128,hmma\nslow 255 32 8 -\n"
REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z8multiplyILi4EEvPf' for 'sm_80'
ptxas info    : Function properties for _Z8multiplyILi4EEvPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 100 registers, used 1 barriers, 360 bytes cmem[0]
ptxas info    : Compiling entry function '_Z3addPf' for 'sm_90'
ptxas info    : Function properties for _Z3addPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
"""
SASS = """
		Function : _Z8multiplyILi4EEvPf
	.headerflags	@"EF_CUDA_SM80"
        /*0010*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/                   HMMA.16816.F32.BF16 R4, R4, R8, RZ ;
		Function : _Z3addPf
        /*0010*/                   LDG.E R4, [R2.64] ;
"""


def ptxas_faults(report, limits=LIMITS):
    made = facts.read_ptxas(report)
    return facts.judge_ptxas(facts.read_limits(limits), made, facts.names_of({m.symbol for m in made}))


def sass_faults(text):
    functions = facts.read_sass(text)
    return facts.judge_sass(facts.read_limits(LIMITS), functions, facts.names_of(functions), "sm_80")


class Ptxas(unittest.TestCase):
    def test_a_report_within_its_limits_has_no_fault(self):
        made = facts.read_ptxas(REPORT)
        self.assertEqual([(m.arch, m.registers) for m in made], [("sm_80", 100), ("sm_90", 8)])
        self.assertEqual(set(facts.names_of({m.symbol for m in made}).values()), {"multiply", "add"})
        self.assertEqual(ptxas_faults(REPORT), [])

    def test_registers_stack_and_spills_over_the_limit_are_told(self):
        self.assertIn("registers 129; at most 128", ptxas_faults(REPORT.replace("Used 100", "Used 129"))[0])
        self.assertIn("registers 65; at most 64", ptxas_faults(REPORT.replace("Used 8 ", "Used 65 "))[0])
        self.assertIn("stack 8; at most 0", ptxas_faults(REPORT.replace("    0 bytes stack", "    8 bytes stack", 1))[0])
        self.assertIn("spill 4; at most 0", ptxas_faults(REPORT.replace("0 bytes spill stores", "4 bytes spill stores", 1))[0])

    def test_namespaces_and_template_arguments_are_no_part_of_a_name(self):
        names = facts.names_of({"_ZN12_GLOBAL__N_18multiplyILi4EEEvPf", "_ZN3esp3addEPf", "plain"})
        self.assertEqual(sorted(names.values()), ["add", "multiply", "plain"])

    def test_a_row_of_a_kernel_that_is_gone_is_told(self):
        made = facts.read_ptxas(REPORT)
        self.assertEqual(len(facts.stale(facts.read_limits(LIMITS), facts.names_of({m.symbol for m in made}))), 1)


class Sass(unittest.TestCase):
    def test_instructions_that_are_there_have_no_fault(self):
        self.assertEqual(sass_faults(SASS), [])
        self.assertEqual(sass_faults(SASS.replace("LDG.E.128.CONSTANT", "LDGSTS.E.BYPASS.128")), [])

    def test_a_narrow_load_and_missing_tensor_cores_are_told(self):
        self.assertIn("no load128", sass_faults(SASS.replace("LDG.E.128", "LDG.E.64"))[0])
        self.assertIn("no hmma", sass_faults(SASS.replace("HMMA", "FFMA"))[0])

    def test_local_memory_is_told(self):
        self.assertIn("local memory", sass_faults(SASS.replace("LDG.E R4, [R2.64]", "LDL R4, [R1]"))[0])
        self.assertIn("local memory", sass_faults(SASS.replace("LDG.E R4, [R2.64]", "STL.64 [R1], R4"))[0])


LOOPS = """
		Function : _Z4waitPf
        /*0010*/                   HMMA.16816.F32.BF16 R4, R4, R8, RZ ;
        /*0020*/                   FADD R4, R4, R4 ;
        /*0030*/                   IADD3 R4, R4, 0x1, RZ ;
        /*0040*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0050*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0060*/              @!P0 BRA 0x30 ;
        /*0070*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0080*/               @P1 BRA 0x70 ;
        /*0090*/                   FADD R4, R4, R4 ;
        /*00a0*/                   FADD R4, R4, R4 ;
        /*00b0*/               @P1 BRA 0x90 ;
        /*00c0*/               @P1 BRA 0x20 ;
        /*00d0*/               @P1 BRA 0xe0 ;
        /*00e0*/                   BRA 0xe0 ;
"""


class Rounds(unittest.TestCase):
    def test_the_innermost_loop_with_most_tensor_instructions_is_the_main_one(self):
        code = facts.read_sass(LOOPS)["_Z4waitPf"]
        self.assertEqual(facts.main_loop(code), facts.Loop(4, 2))
        self.assertEqual(facts.main_loop(code.replace("BRA 0x30", "EXIT")), facts.Loop(2, 1))
        self.assertIsNone(facts.main_loop(code.replace("HMMA", "FFMA")))

    def test_template_arguments_are_part_of_an_instance(self):
        names = facts.instances_of({"_Z8multiplyILi4EEvPf", "_ZN12_GLOBAL__N_18multiplyILi4ELb1EEEvPf", "_ZN3esp3addEPf",
                                    "_ZN3esp3addIN3esp5ShapeILi4EEEEEvPf"})
        self.assertEqual(sorted(names.values()), ["add", "add<esp::Shape<4>>", "multiply<4,true>", "multiply<4>"])

    def test_a_round_that_grew_and_a_kernel_that_is_gone_are_told(self):
        rounds = facts.read_rounds("* 64 0 0 -\nround multiply<4> 100 1280 # ours\n")
        self.assertEqual(rounds, {"multiply<4>": facts.Round(100, 1280)})
        self.assertEqual(facts.judge_rounds(rounds, {"multiply<4>": facts.Loop(100, 8)}, "sm_80"), [])
        self.assertIn("101 instructions a round; at most 100",
                      facts.judge_rounds(rounds, {"multiply<4>": facts.Loop(101, 8)}, "sm_80")[0])
        self.assertIn("no such kernel", facts.judge_rounds(rounds, {"multiply<4>": None}, "sm_80")[0])
        self.assertIn("no such kernel", facts.judge_rounds(rounds, {}, "sm_80")[0])

    def test_rows_of_rounds_that_say_nothing_sensible_are_refused(self):
        for text in ("round multiply<4> 100\n", "round m 1 2\nround m 1 2\n", "round m many 2\n"):
            with self.assertRaises(ValueError):
                facts.read_rounds(text)


class Limits(unittest.TestCase):
    def test_rows_that_say_nothing_sensible_are_refused(self):
        for text in ("* 1 2 3\n", "* 64 0 0 fast\n", "multiply 1 0 0 -\n", "* 1 0 0 -\n* 1 0 0 -\n"):
            with self.assertRaises(ValueError):
                facts.read_limits(text)


if __name__ == "__main__":
    unittest.main()
